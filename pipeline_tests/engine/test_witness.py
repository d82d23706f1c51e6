"""A second witness sees what the engine cannot see of itself."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.findings import RowExtra, RowMissing, ValueDiffers
from pipeline.declared.rules import TableRules
from pipeline.mapping.casts.types import cast_for
from pipeline.mapping.table_mapping import TableMapping
from pipeline.migrations.content import metadata
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof import table_checks
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading import batch_converter
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.mover import FullMover
from pipeline.move.witness import second_witness, stored, values
from pipeline.move.witness.column_digests import encoded
from pipeline.move.witness.source import chosen
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

CONTENT = metadata.tables["learning_content"]
RANKINGS = metadata.tables["rankings"]
NUMERIC = sa.Numeric(5, 2)
LETTERS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
    lambda moment: str(moment).encode()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | LETTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3),
    max_leaves=6,
)
DECIMALS = (
    st.decimals(-(10**50), 10**50, allow_nan=False).map(lambda each: format(each, "f").encode())
    | st.integers(-(2**63), 2**63 - 1).map(lambda each: str(each).encode())
    | st.sampled_from([b"007.50", b"-0.00", b"99.9995", b"0.0005", b"-999999999.9996"])
)
KINDS: dict[str, tuple[sa.types.TypeEngine[Any], st.SearchStrategy[Any]]] = {
    "text": (sa.Text(), LETTERS.map(str.encode)),
    "integer": (sa.Integer(), st.integers(-(2**31), 2**31 - 1)),
    "bigint": (sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "boolean": (sa.Boolean(), st.integers(0, 1)),
    "double": (sa.Double(), st.floats(allow_nan=False, allow_infinity=False)),
    "numeric": (NUMERIC, st.floats(-999, 999) | st.integers(-999, 999)),
    "wide numeric": (sa.Numeric(18, 6), st.floats(-1e12, 1e12, exclude_min=True, exclude_max=True)),
    "moment": (sa.DateTime(timezone=True), MOMENTS),
    "blob": (sa.LargeBinary(), st.binary(max_size=40)),
    "smallint": (sa.SmallInteger(), st.integers(-(2**15), 2**15 - 1)),
    "real": (sa.REAL(), st.floats(-1e38, 1e38) | st.integers(-(2**24), 2**24)),
    "date": (sa.Date(), st.dates().map(lambda day: str(day).encode())),
    "time": (
        sa.Time(),
        st.times().map(lambda time: str(time).encode())
        | st.sampled_from([b"23:59", b"08:00:00.5", b"08:00:00.1234565"]),
    ),
    "timestamp": (sa.DateTime(), MOMENTS),
    "uuid": (
        sa.Uuid(),
        st.uuids().map(lambda uuid: str(uuid).encode())
        | st.uuids().map(lambda uuid: uuid.hex.upper().encode()),
    ),
    "unbounded numeric": (sa.Numeric(), DECIMALS),
    "numeric of 60 digits": (sa.Numeric(60, 3), DECIMALS),
    "enum": (sa.Enum("a", "ก", native_enum=False), st.sampled_from(["a", "ก"]).map(str.encode)),
}
"""The types whose values the engine can hash by itself, as sqlite3 gives them."""


@pytest.fixture(scope="module")
def asking(server: URL) -> Iterator[Callable[..., Any]]:
    """One value of the server."""
    with new_database(server, "witness") as made, closing(psycopg2.connect(libpq(made))) as session:
        session.autocommit = True
        session.set_client_encoding("UTF8")

        def ask(sql: str, *parameters: Any) -> Any:
            with session.cursor() as cursor:
                cursor.execute("SET timezone = 'UTC'")
                cursor.execute(sql, parameters)
                return cursor.fetchone()[0]

        yield ask


def hashed_by_server(asking: Callable[..., Any], kind: Any, value: Any) -> bytes:
    """What the server hashes of a value that arrived."""
    name = kind.compile(dialect=sa.dialects.postgresql.dialect())
    form = stored.expression(kind, "v")
    return bytes.fromhex(
        asking(f"SELECT encode({form}, 'hex') FROM (SELECT (%s)::{name} AS v)", value)
    )


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_server_engine_and_witness_hash_the_same_bytes(
    name: str, data: st.DataObject, asking: Callable[..., Any]
) -> None:
    kind, strategy = KINDS[name]
    value = data.draw(strategy)
    cast = cast_for(sa.Column("c", kind))
    raw = pa.array([value.decode() if cast.raw == pa.string() else value], cast.raw)
    arrived = cast.convert(raw).values
    if isinstance(arrived.type, pa.OpaqueType):
        arrived = arrived.storage
    by_witness = values.encoder(kind, zone="UTC", unwrap=False)(value)
    lengths, data_ = encoded(arrived)
    by_engine = bytes(data_)
    assert lengths.tolist() == [len(by_engine)]
    plain = arrived[0].as_py()
    if isinstance(plain, float) and plain == 0:
        plain = 0.0
    by_server = hashed_by_server(asking, kind, plain)
    assert by_witness == by_engine == by_server


@settings(max_examples=150)
@given(value=JSON, indent=st.sampled_from([None, 1]), ascii_=st.booleans())
def test_the_witness_writes_json_as_jsonb_does(
    value: Any, indent: int | None, ascii_: bool, asking: Callable[..., Any]
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    by_witness = values.encoder(JSONB(), zone="UTC", unwrap=False)(text.encode())
    assert by_witness == hashed_by_server(asking, JSONB(), text)


@pytest.mark.parametrize(
    "text",
    [
        *("1e5", "1.0E+2", "-0", "-0.00", "0e5", "1.50e1", "12345678901234567890.10", "1e-9"),
        *('{"b":1,"a":2,"b":3}', '{"aa":1,"b":2,"ก":3}', '"\\u0e01\\ud83d\\ude00\\u001f\\u007f/"'),
        *("[ ]", "{ }", '["a" ,\t{"":null}]', '"\\b\\f\\n\\r\\t\\\\\\""'),
    ],
)
def test_numbers_names_and_letters_of_json(text: str, asking: Callable[..., Any]) -> None:
    by_witness = values.encoder(JSONB(), zone="UTC", unwrap=False)(text.encode())
    assert by_witness == hashed_by_server(asking, JSONB(), text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-08-06", datetime(2025, 8, 6, tzinfo=UTC)),
        ("2025-08-06 03:07", datetime(2025, 8, 6, 3, 7, tzinfo=UTC)),
        ("2025-08-06T03:07:13Z", datetime(2025, 8, 6, 3, 7, 13, tzinfo=UTC)),
        ("2025-08-06 03:07:13.5 +07:00", datetime(2025, 8, 5, 20, 7, 13, 500_000, UTC)),
        ("2025-08-06 03:07:13.1234565", datetime(2025, 8, 6, 3, 7, 13, 123_457, UTC)),
        ("0001-01-01 00:00:00-01:30", datetime(1, 1, 1, 1, 30, tzinfo=UTC)),
    ],
)
def test_moments_in_every_form(text: str, moment: datetime, asking: Callable[..., Any]) -> None:
    kind = sa.DateTime(timezone=True)
    by_witness = values.encoder(kind, zone="UTC", unwrap=False)(text.encode())
    assert by_witness == hashed_by_server(asking, kind, moment)


def test_a_small_table_is_seen_whole_and_a_large_one_in_part(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    for start in range(100, 3_100, 1_000):
        source.run(
            "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO rankings (id, fragment_id, rank_score, assessed_by) SELECT i, 1, 3.5, 'x'"
            " FROM n",
            (start, start + 999),
        )
    moves = move_all(source.path, target_url)
    seen = {
        name: next(check.figures["rows"] for check in move.checks if check.name == "witness")
        for name, move in moves.items()
    }
    assert seen["learning_content"] == 3
    assert 200 < seen["rankings"] <= 512


@pytest.mark.parametrize("far", [2**31 - 1, 2**63 - 1])
def test_a_key_far_away_hides_no_rows(source: SourceFile, target_url: str, far: int) -> None:
    source.add("learning_content")
    source.run(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO rankings (id, rank_score, assessed_by) SELECT i, 3.5, 'x' FROM n"
    )
    source.run("INSERT INTO rankings (id, rank_score, assessed_by) VALUES (?, 1, 'x')", (far,))
    moved = move_all(source.path, target_url)["rankings"]
    witness = next(check for check in moved.checks if check.name == "witness")
    assert witness.figures["rows"] > 256


@pytest.mark.parametrize(
    "text", ["[0e400000]", "[0.000e5]", "[-0e-3]", json.dumps("[" * 500 + "]" * 500)]
)
def test_odd_zeros_and_deep_strings_of_json_are_no_difference(
    source: SourceFile, target_url: str, text: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": text})
    moved = move_all(source.path, target_url)["learning_content"]
    assert (moved.quarantined_rows, moved.moved_rows) == (0, 1)


def test_a_number_beyond_numeric_is_a_difference_and_no_traceback(
    source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1})
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET tags = '[1e99999999999999999999]'")
    (differs,) = witnessed(source.path, target_url).findings
    assert (
        differs.column,
        "more than" in differs.source or "not a number that" in differs.source,
    ) == (
        "tags",
        True,
    )


class Misreading(SourceView):
    """A reader that loses the last letter of every text."""

    def read(self, *arguments: Any, **options: Any) -> pa.RecordBatch:
        """One range, with its translations cut."""
        batch = super().read(*arguments, **options)
        at = batch.schema.get_field_index("translation")
        shorter = pa.array([text[:-1] for text in batch.column(at).to_pylist()], pa.string())
        return batch.set_column(at, "translation", shorter)


@contextmanager
def miscasting(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cast that loses the seconds of every moment."""
    original = batch_converter.convert
    with patch.context() as within:
        within.setattr(table_checks, "convert", lambda *given: without_seconds(original, *given))
        within.setattr(batch_converter, "convert", lambda *given: without_seconds(original, *given))
        yield


def without_seconds(original: Any, mapping: TableMapping, raw: pa.RecordBatch) -> Any:
    batch, lossy = original(mapping, raw)
    if "created_at" not in batch.schema.names:
        return batch, lossy
    at = batch.schema.get_field_index("created_at")
    cut = pc.floor_temporal(batch.column(at), unit="minute")
    return batch.set_column(at, "created_at", cut), lossy


def failed_move(
    path: Path, url: str, kind: type[SourceView] = SourceView, *before: str
) -> ProofFailed:
    """A first move that must fail."""
    snapshot = take_snapshot(path, path.with_suffix(".copy"), tables=[CONTENT])
    with Target.connect(url, shown="the target") as target:
        target.run(*before)
        mover = FullMover.over(kind(snapshot), target, MoveOptions("test", quarantine_share=1))
        with mover as made, pytest.raises(ProofFailed) as caught:
            made.move(CONTENT)
    assert query(url, "SELECT to_regclass('public.learning_content')") == [(None,)]
    return caught.value


def failing(error: ProofFailed) -> dict[str, Any]:
    return {c.name: c.findings for c in error.checks if c.blocking and not c.passed}


def test_a_driver_that_speaks_another_encoding_is_caught(
    source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1, "translation": "éat"})
    error = failed_move(source.path, target_url, SourceView, "SET client_encoding = 'LATIN1'")
    found = failing(error)
    assert set(found) == {"witness"}
    assert ValueDiffers("learning_content", 1, "translation", "éat", "Ã©at") in found["witness"]


def test_a_reader_that_loses_letters_is_caught(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 1})
    found = failing(failed_move(source.path, target_url, Misreading))
    differs = ValueDiffers("learning_content", 1, "translation", "to eat", "to ea")
    assert found == {"witness": (differs,)}


def test_a_cast_that_loses_seconds_is_caught(
    source: SourceFile, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add("learning_content", {"id": 1})
    with miscasting(monkeypatch):
        found = failing(failed_move(source.path, target_url))
    given, there = "2025-08-06 03:07:13.716509 UTC", "2025-08-06 03:07:00 UTC"
    differs = ValueDiffers("learning_content", 1, "created_at", given, there)
    assert found == {"witness": (differs,)}


def test_a_sync_shows_what_changed_to_the_witness(
    source: SourceFile, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=2)
    move_all(source.path, target_url)
    source.run(
        "UPDATE learning_content SET created_at = '2025-08-06 09:09:09', updated_at ="
        " '2025-09-01 00:00:00' WHERE id = 2"
    )
    with miscasting(monkeypatch), pytest.raises(ProofFailed) as caught:
        sync_all(source.path, target_url)
    (differs,) = failing(caught.value)["witness"]
    assert (differs.key, differs.column) == (2, "created_at")
    moved = sync_all(source.path, target_url)["learning_content"]
    witness = next(check for check in moved.checks if check.name == "witness")
    assert (witness.passed, witness.figures["rows"]) == (True, 1)


def witnessed(path: Path, url: str, *, table: sa.Table = CONTENT, whole: bool = True) -> Any:
    """What the witness says of a table as it is committed."""
    snapshot = take_snapshot(path, path.with_suffix(".seen"), tables=metadata.sorted_tables)
    opened = SourceView(snapshot)
    with Target.connect(url, shown="the target") as target, target.read_only():
        (check,) = verify_table(
            prepare(table, opened),
            source=opened,
            target=target,
            sample=Sample(2**62, 0, witness_all=whole),
            only={"witness"},
        )
    return check


@pytest.mark.parametrize("whole", [True, False])
def test_rows_that_are_missing_or_extra_are_named(
    source: SourceFile, target_url: str, whole: bool
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    query(target_url, "UPDATE rankings SET id = 900 WHERE id = 3")
    check = witnessed(source.path, target_url, table=RANKINGS, whole=whole)
    assert set(check.findings) == {RowMissing("rankings", 3), RowExtra("rankings", 900)}


def test_large_values_are_held_a_few_at_a_time(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=10)
    move_all(source.path, target_url)
    large, later = b"x" * 2**20, "2026-01-01 00:00:00"
    source.run("UPDATE fragment_assets SET asset_data = ?, created_at = ?", (large, later))
    held: list[int] = []

    def measured(table: Any, connection: Any, *given: Any, **options: Any) -> Iterator[Any]:
        for stretch in chosen(table, connection, *given, **options):
            held.append(stretch.bytes)
            yield stretch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_witness, "chosen", measured)
        moved = sync_all(source.path, target_url)["fragment_assets"]
        check = next(check for check in moved.checks if check.name == "witness")
        assert (moved.written_rows, check.figures["rows"]) == (20, len(held) * 4)
        assert max(held) < 5 * 2**20
        del held[:]
        witnessed_keys(source.path, target_url, range(1, 30))
    assert sum(held) // 2**20 == 40
    assert max(held) < 5 * 2**20


def witnessed_keys(path: Path, url: str, keys: Any) -> None:
    """Every one of these rows of the assets is compared, and a key that is extra is named."""
    table = metadata.tables["fragment_assets"]
    opened = SourceView(take_snapshot(path, path.with_suffix(".keys"), tables=[table]))
    mapping = prepare(table, opened).mapping
    with Target.connect(url, shown="the target") as target, target.read_only():
        found = second_witness.check_all(opened, target, mapping, keys=list(keys))
        assert (found.passed, found.figures["rows"]) == (True, 20)
        target.run(
            "INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data)"
            " VALUES (29, 1, 'audio', 'x')"
        )
        found = second_witness.check_all(opened, target, mapping, keys=list(keys))
        assert found.findings == (RowExtra("fragment_assets", 29),)


def test_a_function_that_fits_better_does_not_hash_in_the_place_of_the_servers(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    query(
        target_url,
        "CREATE FUNCTION public.convert_to(varchar, name) RETURNS bytea LANGUAGE sql"
        " RETURN '\\x00'::bytea;"
        "CREATE FUNCTION public.noughts(float8, int) RETURNS float8 LANGUAGE sql RETURN 0;"
        "CREATE OPERATOR public.+ (LEFTARG = float8, RIGHTARG = int, FUNCTION = public.noughts)",
    )
    move_all(source.path, target_url)
    query(target_url, "UPDATE learning_content SET language = 'other'")
    (differs,) = witnessed(source.path, target_url).findings
    assert differs == ValueDiffers("learning_content", 1, "language", "thai", "other")


def test_where_chance_finds_quarantined_rows_alone_others_are_seen(
    source: SourceFile, target_url: str
) -> None:
    source.add("learning_content")
    source.run(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO rankings (id, rank_score, assessed_by) SELECT i, 9.5, 'x' FROM n"
    )
    source.run("INSERT INTO rankings (id, rank_score, assessed_by) VALUES (1, 1.5, 'x')")
    moved = move_all(source.path, target_url)["rankings"]
    check = next(check for check in moved.checks if check.name == "witness")
    assert (moved.quarantined_rows, check.figures["rows"]) == (4991, 1)


def test_values_of_json_that_mean_the_same_are_equal(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 1, "tags": "[1.0, 2]"})
    move_all(source.path, target_url)
    query(target_url, "UPDATE learning_content SET tags = '[1.00, 2.0]'")
    assert witnessed(source.path, target_url).passed
    query(target_url, "UPDATE learning_content SET tags = '[1.00, 2.1]'")
    (differs,) = witnessed(source.path, target_url).findings
    assert differs == ValueDiffers("learning_content", 1, "tags", "[1.0, 2]", "[1.00, 2.1]")


def test_json_that_is_nested_too_deeply_for_python_is_written_by_the_server(
    source: SourceFile, target_url: str
) -> None:
    deep = "[" * 1_500 + "]" * 1_500
    source.add("learning_content", {"id": 1, "tags": deep})
    moved = move_all(source.path, target_url)["learning_content"]
    assert next(check for check in moved.checks if check.name == "witness").passed
    query(target_url, "UPDATE learning_content SET tags = %s", ("[" * 1_499 + "]" * 1_499,))
    (differs,) = witnessed(source.path, target_url).findings
    assert (differs.key, differs.column) == (1, "tags")


def test_texts_as_keys(tmp_path: Path, target_url: str) -> None:
    path = tmp_path / "users.db"
    table = sa.Table(
        "people",
        sa.MetaData(),
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("name", sa.Text()),
        info=TableRules("people").info,
    )
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        names = [("b",), ("A",), ("C",), ("ก",), ("it's",), ("Z" * 50,)]
        made.executemany("INSERT INTO people VALUES (?, 'x')", names)
    move_all(path, target_url, tables=[table])
    snapshot = take_snapshot(path, tmp_path / "copy.db", tables=[table])
    opened = SourceView(snapshot)
    mapping = prepare(table, opened).mapping
    with Target.connect(target_url, shown="the target") as target, target.read_only():
        found = second_witness.check_all(opened, target, mapping)
        assert (found.passed, found.figures["rows"]) == (True, 6)
        target.run("DELETE FROM people WHERE id = 'it''s'")
        assert second_witness.check_all(opened, target, mapping).findings == (
            RowMissing("people", "it's"),
        )
