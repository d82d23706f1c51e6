"""The types of a copy: what is declared if all values fit, else a type that takes them all."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.copy.census import given as given_types
from pipeline.copy.census.declared import meaning
from pipeline.copy.census.survey import survey_all
from pipeline.copy.census.types import Decision, decide
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.errors import SettingsError
from pipeline.core.quoting import quoted
from pipeline.declared.forms import EpochMoment, MixedBytes, MixedText, WordBoolean
from pipeline.mapping.casts.cast import Cast
from pipeline.mapping.casts.types import cast_for, type_name
from pipeline.mapping.contract import is_utf8
from pipeline.sqlite.structure.model import Column, ForeignKey, Schema, Table
from pipeline_tests.support.any_columns import BadText, columns, prepared, table

UUID = "0b0e8a2c-7c1f-4a3e-9d6a-0123456789ab"
Filled = tuple[Table, Sequence[Sequence[Any]]]


def decided(
    *filled: Filled, casts: Mapping[str, str] | None = None
) -> dict[str, dict[str, Decision]]:
    with prepared(*filled) as source:
        return decide_all(source, casts or {})


def decide_all(source: PreparedSource, casts: Mapping[str, str]) -> dict[str, dict[str, Decision]]:
    types = given_types.kinds(source.schema, casts)
    return decide(source.schema, survey_all(source, source.schema.tables, given=types), casts)


def one(declared: str, values: Sequence[Any], cast: str = "", name: str = "c") -> Decision:
    """The decision for one column."""
    each = Table("t", (Column(name, declared),))
    return decided((each, [values]), casts={f"t.{name}": cast} if cast else {})["t"][name]


def named(decision: Decision) -> str:
    """A type as PostgreSQL writes it, with its form."""
    match decision.kind:
        case MixedText():
            return "mixed numeric text" if decision.kind.numeric else "mixed text"
        case MixedBytes():
            return "mixed bytea"
        case WordBoolean():
            return decision.kind.words
        case EpochMoment():
            return decision.kind.unit
    return type_name(decision.kind).replace("numeric(none,none)", "numeric")


def exact_cast(decision: Decision) -> Cast | None:
    """The cast of a type; None while the type has none."""
    try:
        return cast_for(sa.Column("c", decision.kind))
    except SettingsError:
        assert isinstance(
            decision.kind,
            sa.SmallInteger | sa.Date | sa.Time | sa.DateTime | sa.Uuid | sa.Numeric,
        )
        return None


def converted(source: PreparedSource, each: Table, name: str, cast: Cast) -> tuple[int, Any]:
    """Convert a column as a move does: the number of rejected values, and what was converted."""
    c, declared = quoted(name), each.column(name).declared
    rules = [cast.storage_rule(c, declared), *cast.rules(c)]
    broken = " OR ".join(f"({rule.violated})" for rule in rules)
    text = f"CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) END"
    with source.sqlite() as connection:
        rows = connection.execute(
            f"SELECT rowid, ({broken}) IS TRUE, {text} FROM {quoted(each.name)}"
        ).fetchall()
    reads_text = cast.raw == pa.string()
    rejected = {
        row_id
        for row_id, is_broken, value in rows
        if is_broken or (reads_text and value is not None and not is_utf8(value))
    }
    kept = f"(rowid IN ({', '.join(map(str, rejected)) or 'NULL'})) IS NOT TRUE"
    with source.arrow(batch_rows=1000) as cursor:
        cursor.execute(
            f"SELECT {cast.sentinel} UNION ALL SELECT * FROM (SELECT {cast.read(c)} FROM"
            f" {quoted(each.name)} WHERE {kept} ORDER BY rowid LIMIT -1)"
        )
        raw = cursor.fetch_arrow_table().slice(1).column(0).combine_chunks()
    assert raw.type == cast.raw
    return len(rejected), cast.convert(raw)


@given(st.lists(columns(), min_size=1, max_size=6))
@settings(max_examples=150)
def test_a_type_takes_every_value_without_loss(found: list[tuple[str, list[Any]]]) -> None:
    each = table("t", found)
    with prepared((each, [values for _, values in found])) as source:
        for name, decision in decide_all(source, {})["t"].items():
            cast = exact_cast(decision)
            if cast is None:
                continue
            rejected, result = converted(source, each, name, cast)
            assert rejected == decision.quarantines
            # Only a mixed type loses something: the storage class, which the ledger keeps.
            is_mixed = isinstance(decision.kind, MixedBytes) or (
                isinstance(decision.kind, MixedText) and not decision.kind.numeric
            )
            assert is_mixed or result.lossy is None or not pc.any(result.lossy).as_py()
            assert not isinstance(decision.kind, MixedBytes) or not rejected


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        ("INTEGER", [1, 2**62], "bigint"),
        ("INTEGER", [1, 1.5], "double precision"),
        ("INTEGER", [2**53 + 1, 1.5], "numeric"),
        ("INTEGER", [1, "x"], "mixed numeric text"),
        ("UNSIGNED BIG INT", [], "bigint"),
        ("SMALLINT", [-(2**15), 2**15 - 1], "smallint"),
        ("TINYINT(1)", [2**15], "bigint"),
        ("BOOLEAN", [0, 1, None], "boolean"),
        ("BOOL", ["t", "f"], "t/f"),
        ("BOOLEAN", ["True", "False"], "true/false"),
        ("BOOLEAN", ["True", "true"], "text"),
        ("BOOLEAN", [0, 2], "bigint"),
        ("BOOLEAN", [0, "t"], "mixed numeric text"),
        ("REAL", [1, 1.5], "double precision"),
        ("DOUBLE PRECISION", [float("inf")], "double precision"),
        ("FLOATING POINT", [2**53 + 1], "numeric"),
        ("DECIMAL(5,2)", [1, 1.25], "numeric(5,2)"),
        ("DECIMAL(5,2)", [1.255], "numeric"),
        ("DECIMAL(5,2)", [1000], "numeric"),
        ("NUMERIC(20,4)", [2**53 - 1], "numeric"),
        ("DECIMAL(5,2)", ["x"], "text"),
        ("DECIMAL(5,2)", [1, "x"], "mixed numeric text"),
        ("NUMERIC", [1, 1.5], "numeric"),
        ("MONEY", [], "numeric"),
        ("DECIMALTEXT", ["1.50", "12345678901234567890.12"], "numeric"),
        ("DECIMALTEXT", ["007"], "text"),
        ("VARCHAR(4)", ["ข้าว"], "character varying(4)"),
        ("VARCHAR(3)", ["ข้าว"], "text"),
        ("character varying (3)", [], "character varying(3)"),
        ("VARCHAR", ["x"], "text"),
        ("VARCHAR(100000000)", ["x"], "text"),
        ("FLOATING POINT", [1], "double precision"),
        ("TEXT", ["x", b"x"], "mixed bytea"),
        ("TEXT", ["x", "a\0b", BadText(b"\xff")], "text"),
        ("BLOB", [b"x"], "bytea"),
        ("BLOB", ["x"], "text"),
        ("BLOB", [b"x", "x"], "mixed bytea"),
        ("VARBINARY(16)", [], "bytea"),
        ("JSON", ['{"a": [1]}', 5, None], "jsonb"),
        ("JSON", ['{"a": 1, "a": 2}'], "text"),
        ("JSONB", [], "jsonb"),
        ("UUID", [UUID], "uuid"),
        ("GUID", [UUID.upper()], "text"),
        ("DATE", ["2024-02-29"], "date"),
        ("DATE", ["2024-02-29", "2024-02-29 10:00:00"], "timestamp without time zone"),
        ("DATE", ["2024-02-29T10:00:00Z"], "timestamp with time zone"),
        ("DATE", ["2023-02-29"], "text"),
        ("DATE", ["9999-12-31T23:59:59-00:01"], "text"),
        ("DATE", ["9999-12-31T23:59:59Z", "0001-01-01 00:00-01:00"], "timestamp with time zone"),
        ("DATE", [20240229, 2**53 + 2], "bigint"),
        ("DATETIME", ["2024-02-29 10:00:00.123456"], "timestamp without time zone"),
        ("DATETIME", ["2024-02-29 10:00:00.1234567"], "text"),
        ("TIMESTAMP", ["2024-02-29T10:00:00+07:00"], "timestamp with time zone"),
        ("TIMESTAMP", ["2024-02-29T10:00:00+07:00", "2024-02-29 10:00"], "text"),
        ("TIMESTAMP WITH TIME ZONE", [], "timestamp with time zone"),
        ("TIMESTAMP", [], "timestamp without time zone"),
        ("DATETIME", [1_700_000_000_000], "bigint"),
        ("DATETIME", [2460000.5], "double precision"),
        ("TIME", ["10:00:00"], "time without time zone"),
        ("TIME", ["25:00:00"], "text"),
        ("STRING", ["x", None], "text"),
        ("STRING", [5, "x"], "mixed numeric text"),
        ("ENUM", ["a"], "text"),
        ("INTERVAL", [], "text"),
        ("", [1, 2], "bigint"),
        ("", [1, 1.5], "double precision"),
        ("", [2**60, 1.5], "numeric"),
        ("", ["x"], "text"),
        ("", [b"x"], "bytea"),
        ("", [1, "x"], "mixed numeric text"),
        ("", [1, "1"], "mixed text"),
        ("", [1, b"x"], "mixed bytea"),
        ("", [float("inf"), "Inf"], "mixed text"),
        ("", [BadText(b"\xff")], "mixed bytea"),
        ("", [None], "text"),
    ],
)
def test_type_and_values_decide_together(declared: str, values: list[Any], expected: str) -> None:
    assert named(one(declared, values)) == expected


def test_texts_that_postgresql_cannot_store_go_to_quarantine() -> None:
    found = one("TEXT", ["x", "a\0b", BadText(b"\xff")])
    assert found.quarantines == 2
    assert found.hint is not None
    assert found.hint.endswith("--cast t.c=bytea")
    assert one("TEXT", ["x", "a\0b"], cast="bytea").quarantines == 0


def test_the_reason_names_the_value_that_does_not_fit() -> None:
    assert one("DATE", ["2024-01-01", "N/A"]).why == "declared DATE, holds 2 texts, such as 'N/A'"
    assert one("DATE", ["2024-01-01"]).why == "declared DATE, and all values fit"
    assert one("", [1]).why == "not declared, holds 1 integer"
    assert one("DATE", [None]).why == "declared DATE, no values"


@pytest.mark.parametrize(
    ("declared", "name", "values", "option"),
    [
        ("DATETIME", "c", [1_700_000_000_000, 1_600_000_000_000], "--cast t.c=milliseconds"),
        ("INTEGER", "created_at", [1_700_000_000, 0], "--cast t.created_at=seconds"),
        ("INTEGER", "updatedAt", [1_700_000_000_000], "--cast t.updatedAt=milliseconds"),
        ("REAL", "mtime", [1_700_000_000.5], "--cast t.mtime=seconds"),
        ("DATETIME", "c", [2460000.5], "--cast t.c=julian_days"),
        ("INTEGER", "is_active", [0, 1], "--cast t.is_active=boolean"),
        ("TEXT", "id", [UUID], "--cast t.id=uuid"),
        ("CHAR(36)", "id", [UUID], "--cast t.id=uuid"),
        ("TEXT", "meta", ['{"a": 1}', "[]"], "--cast t.meta=jsonb"),
        ("TEXT", "day", ["2024-01-01"], "--cast t.day=date"),
        ("TEXT", "at", ["2024-01-01T10:00:00Z"], "--cast t.at=timestamptz"),
        ("TEXT", "at", ["2024-01-01 10:00:00"], "--cast t.at=timestamp"),
        ("DATETIME", "at", ["2024-01-01 10:00", "2024-01-01 10:00Z"], "--cast t.at=timestamptz"),
        ("BOOLEAN", "ok", ["True", "true"], "--cast t.ok=true/false"),
        ("TEXT", "my id", [UUID], "--cast 't.my id=uuid'"),
        ("DATETIME", "c", [1_700_000_000_000, "2024-01-01 10:00:00"], "--cast t.c=milliseconds"),
        ("tinyint(1)", "published", [0, 1], "--cast t.published=boolean"),
        ("BIT", "c", [0, 1], "--cast t.c=boolean"),
        ("boolean", "ok", ["t", 0, "f", 1], "--cast t.ok=t/f"),
        ("char(32)", "id", ["550e8400e29b41d4a716446655440000"], "--cast t.id=uuid"),
    ],
)
def test_what_values_look_like_is_a_hint(
    declared: str, name: str, values: list[Any], option: str
) -> None:
    hint = one(declared, values, name=name).hint
    assert hint is not None
    assert hint.endswith(option)


@pytest.mark.parametrize(
    ("declared", "name", "values"),
    [
        ("INTEGER", "created_at", [5, 7]),
        ("INTEGER", "flight", [1_700_000_000]),
        ("INTEGER", "count", [0, 1]),
        ("TEXT", "note", ["x", UUID]),
        ("TEXT", "number", ["1", "2"]),
        ("UUID", "id", [UUID]),
        ("char(32)", "md5", ["d41d8cd98f00b204e9800998ecf8427e"]),
        ("tinyint(1)", "stars", [0, 5]),
        ("boolean", "ok", ["t", 2]),
        ("DATETIME", "c", [1_700_000_000_000, "never"]),
        ("TEXT", "note", []),
    ],
)
def test_other_values_have_no_hint(declared: str, name: str, values: list[Any]) -> None:
    assert one(declared, values, name=name).hint is None


def linked(
    *tables: tuple[str, str, list[Any]], keys: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Types by column of tables, each with columns ``id`` and ``other``."""
    filled = []
    for name, declared, values in tables:
        columns_ = (Column("id", declared), Column("other", ""))
        references = tuple(
            ForeignKey((child.partition(".")[2],), parent, (column,))
            for child, (parent, column) in keys.items()
            if child.partition(".")[0] == name
        )
        filled.append((Table(name, columns_, foreign_keys=references), [values, []]))
    found = decided(*filled)
    return {name: named(each["id"]) for name, each in found.items()}


def test_columns_that_foreign_keys_join_get_one_type() -> None:
    found = linked(("a", "INTEGER", [1, 2]), ("b", "TEXT", ["1"]), keys={"b.id": ("a", "id")})
    assert found == {"a": "mixed numeric text", "b": "text"}
    found = linked(
        ("a", "VARCHAR(3)", ["x"]), ("b", "VARCHAR(9)", ["x"]), keys={"b.id": ("A", "ID")}
    )
    assert found == dict.fromkeys("ab", "character varying(9)")
    found = linked(("a", "UUID", [UUID]), ("b", "CHAR(36)", [UUID]), keys={"b.id": ("a", "id")})
    assert found == dict.fromkeys("ab", "text")
    found = linked(("a", "UUID", [UUID]), ("b", "GUID", []), keys={"b.id": ("a", "id")})
    assert found == dict.fromkeys("ab", "uuid")
    found = linked(("a", "INTEGER", [1]), ("b", "", [1]), keys={"b.id": ("a", "id")})
    assert found == dict.fromkeys("ab", "bigint")
    found = linked(("a", "SMALLINT", [1]), ("b", "INTEGER", [1]), keys={"b.id": ("a", "id")})
    assert found == dict.fromkeys("ab", "bigint")
    found = linked(
        ("a", "DECIMAL(5,2)", [1]), ("b", "DECIMAL(5,2)", [1.255]), keys={"b.id": ("a", "id")}
    )
    assert found == dict.fromkeys("ab", "numeric")
    found = linked(("a", "TEXT", ["x"]), ("b", "TEXT", [b"x"]), keys={"b.id": ("a", "id")})
    assert found == {"a": "mixed bytea", "b": "bytea"}


def test_foreign_keys_join_columns_through_others_and_in_circles() -> None:
    found = linked(
        ("a", "INTEGER", [1]),
        ("b", "INTEGER", [1]),
        ("c", "TEXT", ["x"]),
        keys={"a.id": ("b", "id"), "b.id": ("c", "id"), "c.id": ("a", "id")},
    )
    assert found == {"a": "mixed numeric text", "b": "mixed numeric text", "c": "text"}


def test_a_foreign_key_of_several_columns_joins_each_with_its_own() -> None:
    parent = Table("p", (Column("a", "INTEGER"), Column("b", "TEXT")), ("a", "b"))
    child = Table(
        "q",
        (Column("x", "INTEGER"), Column("y", "VARCHAR(5)")),
        foreign_keys=(
            ForeignKey(("y", "x"), "p", ("b", "a")),
            ForeignKey(("x",), "missing", ("id",)),
            ForeignKey(("x",), "p", ()),
        ),
    )
    found = decided((parent, [[1], ["x"]]), (child, [[1], ["x"]]))
    assert {name: named(each) for name, each in found["q"].items()} == {"x": "bigint", "y": "text"}
    assert found["q"]["y"].why.endswith("the same type as p.b, because foreign keys join them")


@pytest.mark.parametrize(
    ("declared", "values", "cast", "expected", "quarantines"),
    [
        ("TEXT", ["1", "2"], "integer", "integer", 2),
        ("INTEGER", [1, 2**40], "INT", "integer", 1),
        ("INTEGER", [0, 1], "boolean", "boolean", 0),
        ("TEXT", ["t", "x"], "boolean", "true/false", 1),
        ("TEXT", ["yes", "no"], "yes/no", "yes/no", 0),
        ("INTEGER", [1], "text", "mixed numeric text", 0),
        ("TEXT", ["x", BadText(b"\xff")], "text", "text", 1),
        ("TEXT", ["xx", "xxx"], "varchar(2)", "character varying(2)", 1),
        ("TEXT", ['{"a": 1}', "x"], "jsonb", "jsonb", 1),
        ("DATETIME", [1_700_000_000_000], "milliseconds", "milliseconds", 0),
        ("TEXT", ["2024-01-01", "x"], "timestamp with time zone", "timestamp with time zone", 1),
        ("REAL", [1.5], "numeric(10, 2)", "numeric(10,2)", 0),
        ("BLOB", [b"x", "x"], "bytea", "mixed bytea", 0),
    ],
)
def test_a_cast_wins(
    declared: str, values: list[Any], cast: str, expected: str, quarantines: int
) -> None:
    found = one(declared, values, cast)
    assert (named(found), found.quarantines, found.why) == (
        expected,
        quarantines,
        "given by --cast",
    )


def test_a_cast_holds_for_columns_that_foreign_keys_join() -> None:
    parent = Table("p", (Column("id", "TEXT"),))
    child = Table("q", (Column("id", "TEXT"),), foreign_keys=(ForeignKey(("id",), "p", ("id",)),))
    filled = (parent, [["x"]]), (child, [["x"]])
    found = decided(*filled, casts={"P.ID": "varchar(5)"})
    assert {named(found[name]["id"]) for name in "pq"} == {"character varying(5)"}
    with pytest.raises(SettingsError, match=r"p\.id .* q\.id"):
        decided(*filled, casts={"p.id": "varchar(5)", "q.id": "text"})


@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("x.c", "text", "Name one of its tables: t, u.v"),
        ("t.x", "text", "Name one of its columns: c, d.e"),
        ("t.c", "texte", "double precision"),
        ("t.c", "varchar(0)", "varchar(n)"),
        ("t.c", "numeric(2,5)", "numeric(p,s)"),
        ("t", "text", "--cast table.column=type"),
    ],
)
def test_a_wrong_cast_says_what_exists(name: str, type_: str, said: str) -> None:
    tables = (
        Table("t", (Column("c", "TEXT"), Column("d.e", "TEXT"))),
        Table("u.v", (Column("c", "TEXT"),)),
    )
    with pytest.raises(SettingsError) as error:
        decide(Schema(tables), [], {name: type_})
    assert said in f"{error.value} {error.value.remedy}"


def test_names_with_points_can_be_given_a_type() -> None:
    schema = Schema((Table("u.v", (Column("w.x", "TEXT"),)),))
    assert given_types.kinds(schema, {"u.v.w.x": "text"}).keys() == {"u.v"}


def test_tables_that_are_not_copied_decide_nothing() -> None:
    parent = Table("p", (Column("id", "TEXT"),))
    child = Table(
        "q", (Column("id", "INTEGER"),), foreign_keys=(ForeignKey(("id",), "p", ("id",)),)
    )
    with prepared((parent, [["x"]]), (child, [[1]])) as source:
        found = decide(source.schema, survey_all(source, [child]), {})
    assert named(found["q"]["id"]) == "bigint"
    assert set(found) == {"q"}


@pytest.mark.parametrize(
    ("declared", "family"),
    [
        ("INT UNSIGNED", "integer"),
        ("MEDIUMINT(9)", "integer"),
        ("FLOAT(24)", "real"),
        ("NATIVE CHARACTER(70)", "string"),
        ("nvarchar2(10 char)", "string"),
        ("VARCHAR(20) CHARACTER SET utf8", "string"),
        ("LONGTEXT", "text"),
        ("datetime(3)", "moment"),
        ("POINT", "unknown"),
        ("TIME WITH TIME ZONE", "unknown"),
        ("NUMERIC(5,-2)", "numeric"),
        ("DECIMAL( 10 , 2 )", "decimal"),
        ("BLOB SUB_TYPE TEXT", "text"),
        ("TINYBLOB", "bytes"),
        ("", "unknown"),
    ],
)
def test_meanings_of_declared_types(declared: str, family: str) -> None:
    assert meaning(declared).family == family
