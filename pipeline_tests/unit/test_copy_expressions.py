"""Expressions of SQLite's schema in PostgreSQL's words, case by case."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.expressions import view_order
from pipeline.copy.expressions.translate import (
    NotTranslated,
    TargetColumn,
    TargetRelation,
    TranslatedView,
    Translation,
    condition,
    default,
    generated,
    index_part,
    view,
)
from pipeline.declared.forms import EpochMoment, MixedText, WordBoolean
from pipeline.sqlite.structure.model import IndexPart, View

KINDS: dict[str, sa.types.TypeEngine[Any]] = {
    "i": sa.Integer(),
    "b": sa.BigInteger(),
    "f": sa.Double(),
    "n": sa.Numeric(10, 2),
    "t": sa.Text(),
    "u": sa.Text(),
    "o": sa.Boolean(),
    "w": WordBoolean("yes/no"),
    "x": sa.LargeBinary(),
    "j": JSONB(),
    "m": sa.DateTime(timezone=True),
    "p": sa.DateTime(),
    "d": sa.Date(),
    "e": EpochMoment("milliseconds"),
    "g": sa.Uuid(),
    "k": MixedText(),
}
COLUMNS = {name: TargetColumn(name, kind) for name, kind in KINDS.items()} | {
    "name": TargetColumn("Name", sa.Text(), "NOCASE"),
    "ort": TargetColumn('O"rt', sa.Text(), "GERMAN"),
}

CONDITIONS = {
    "i > 0": '"i" > 0',
    "I == 1 AND T.i <> 2": '("i" = 1) AND ("i" <> 2)',
    "t IN ('a', \"c\")": "\"t\" IN ('a', 'c')",
    "i IN ()": "FALSE",
    "NOT i IS NULL": '"i" IS NOT NULL',
    "i NOTNULL": '"i" IS NOT NULL',
    "t IS 'a'": "\"t\" IS NOT DISTINCT FROM 'a'",
    "i IS NOT b": '"i" IS DISTINCT FROM "b"',
    "t GLOB 'a*[^0-9]?.'": "\"t\" ~ E'^a.*[^0-9].\\\\.$'",
    "t LIKE 'a%'": "\"t\" ILIKE 'a%'",
    "t NOT LIKE 'a\\%'": "NOT (\"t\" ILIKE E'a\\\\%' ESCAPE '')",
    "t LIKE '!%' ESCAPE '!'": "\"t\" ILIKE '!%' ESCAPE '!'",
    "i": '"i" <> 0',
    "length(t)": 'length("t") <> 0',
    "length(x) = 16": 'octet_length("x") = 16',
    "o": '"o"',
    "o IN (0, 1)": '"o" IN (false, true)',
    "o = 2": '("o")::integer = 2',
    "w = 'yes'": '"w" = true',
    "t = 5": "\"t\" = '5'",
    "i = '5'": '"i" = 5',
    "k NOT IN ('WKT', 5)": "NOT (\"k\" IN ('WKT', '5'))",
    "length(k) > 1": 'length("k") > 1',
    "name = 'ABC'": "lower(\"Name\") = 'abc'",
    "t = 'A' COLLATE NOCASE": "lower(\"t\") = 'a'",
    "t < 'm'": '"t" COLLATE "C" < \'m\'',
    "t || i = 'a1'": '("t" || ("i")::text) = \'a1\'',
    "min(i, b) = 0": (
        '(CASE WHEN "i" IS NULL OR "b" IS NULL THEN NULL ELSE least("i", "b") END) = 0'
    ),
    "i / b = 2": '("i" / nullif("b", 0)) = 2',
    "i % 2 = 0": '("i" % 2) = 0',
    "i * b < 9": '(("i")::bigint * "b") < 9',
    "ifnull(i, 0) = 0": 'coalesce("i", 0) = 0',
    "iif(o, i, 0) > 0": '(CASE WHEN "o" THEN "i" ELSE 0 END) > 0',
    "substr(t, 1, 2) = 'ab'": "substr(\"t\", 1, 2) = 'ab'",
    "substr(t, -2) = 'ab'": "right(\"t\", 2) = 'ab'",
    "instr(t, '@')": "strpos(\"t\", '@') <> 0",
    "replace(t, 'a', '') = t": "replace(\"t\", 'a', '') = \"t\"",
    "m > '2020-01-01'": "\"m\" > '2020-01-01 00:00:00+00:00'::timestamptz",
    "p > '2020-01-01 10:00'": "\"p\" > '2020-01-01 10:00:00'::timestamp",
    "d BETWEEN '2020-01-01' AND '2020-12-31'": (
        "(\"d\" >= '2020-01-01'::date) AND (\"d\" <= '2020-12-31'::date)"
    ),
    "m <= CURRENT_TIMESTAMP": '"m" <= now()',
    "e > 1000": '"e" > to_timestamp(1000 / 1000.0)',
    "strftime('%Y', p) = '2020'": "to_char(\"p\", 'YYYY') = '2020'",
    "j ->> '$.a' = 'x'": "((\"j\" #> ARRAY['a']) #>> '{}') = 'x'",
    "json_valid(t)": '"t" IS JSON',
    "(i, b) = (1, 2)": '("i" = 1) AND ("b" = 2)',
    "x = x'00ff'": "\"x\" = '\\x00ff'::bytea",
    "i > 1 -- 'comment": '"i" > 1',
}

REFUSED = {
    "t REGEXP 'a'": "uses REGEXP, which has no equal in PostgreSQL",
    "hex(t) = ''": "calls the function hex, which has no equal in PostgreSQL",
    "own(t)": "calls the function own, which has no equal in PostgreSQL",
    "z > 1": "uses z, which is no column in the target",
    "rowid > 1": "uses the row id, which is no column",
    "t": "uses a text as a condition",
    "t + 1 > 0": "calculates with a text",
    "i = 'abc'": "compares an integer with a text",
    "length(t) = '5'": "compares an integer with a text",
    "f || '' = ''": "uses a float as a text",
    "d > 'tomorrow'": "uses the text 'tomorrow', which is not a date",
    "ort = 'a'": "uses the collation GERMAN, which only the application has",
    "k > 'a'": "orders values of several storage classes",
    "t GLOB u": "uses GLOB with a pattern that is not a literal",
    "date(m, '+1 day') > '2020'": "calls date with modifiers",
    "i IN (SELECT 1)": "contains a query (Subquery)",
    "i >": "cannot be read by the translator",
    "i); DROP TABLE t; --": "cannot be read by the translator",
}


@pytest.mark.parametrize("sql", CONDITIONS)
def test_a_condition_is_translated(sql: str) -> None:
    assert condition(sql, COLUMNS, table="t") == Translation(CONDITIONS[sql])


@pytest.mark.parametrize("sql", REFUSED)
def test_a_condition_without_an_equal_is_refused(sql: str) -> None:
    assert condition(sql, COLUMNS, table="t") == NotTranslated(REFUSED[sql])


def test_a_condition_that_the_type_guarantees_is_marked() -> None:
    found = condition("JSON_VALID(j) OR j IS NULL", COLUMNS)
    assert isinstance(found, Translation)
    assert found.always


DEFAULTS: list[tuple[str, sa.types.TypeEngine[Any], str | None]] = [
    ("NULL", sa.Text(), "NULL"),
    ("0", sa.Boolean(), "false"),
    ("TRUE", sa.Boolean(), "TRUE"),
    ("'1'", sa.Boolean(), "true"),
    ("2", sa.Boolean(), None),
    ("'yes'", WordBoolean("yes/no"), "true"),
    ("-5", sa.Integer(), "-5"),
    ("'5'", sa.Integer(), "5"),
    ("5.0", sa.Integer(), "5"),
    ("3000000000", sa.Integer(), None),
    ("'x'", sa.Integer(), None),
    ("''", sa.Numeric(), None),
    ("1.5", sa.Double(), "1.5"),
    ("''", sa.Text(), "''"),
    ("5", sa.Text(), "'5'"),
    ("draft", sa.Text(), "'draft'"),
    ('"it\'s"', sa.Text(), "'it''s'"),
    ("'long'", sa.String(3), None),
    ("x'00ff'", sa.LargeBinary(), "'\\x00ff'::bytea"),
    ("'a'", sa.LargeBinary(), None),
    ("'{}'", JSONB(), "'{}'::jsonb"),
    ("'{'", JSONB(), None),
    ("CURRENT_TIMESTAMP", sa.DateTime(timezone=True), "now()"),
    ("(datetime('now'))", sa.DateTime(), "(now() AT TIME ZONE 'UTC')"),
    ("CURRENT_DATE", sa.Date(), "(now() AT TIME ZONE 'UTC')::date"),
    (
        "CURRENT_TIMESTAMP",
        sa.Text(),
        "to_char((now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD HH24:MI:SS')",
    ),
    (
        "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        sa.Text(),
        "to_char((now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
    ),
    (
        "(unixepoch())",
        sa.BigInteger(),
        "floor(extract(epoch FROM (now() AT TIME ZONE 'UTC')))::bigint",
    ),
    (
        "(strftime('%s', 'now'))",
        sa.BigInteger(),
        "(floor(extract(epoch FROM (now() AT TIME ZONE 'UTC')))::bigint::text)::bigint",
    ),
    ("(unixepoch())", EpochMoment("seconds"), "now()"),
    (
        "'2020-01-01 10:00:00'",
        sa.DateTime(timezone=True),
        "'2020-01-01 10:00:00+00:00'::timestamptz",
    ),
    ("'soon'", sa.DateTime(timezone=True), None),
    ("(lower(hex(randomblob(16))))", sa.Text(), "replace(gen_random_uuid()::text, '-', '')"),
    ("(lower(hex(randomblob(16))))", sa.Uuid(), "gen_random_uuid()"),
    ("(random())", sa.Integer(), None),
]


@pytest.mark.parametrize(("sql", "kind", "expected"), DEFAULTS)
def test_a_default_takes_the_type_of_its_column(
    sql: str, kind: sa.types.TypeEngine[Any], expected: str | None
) -> None:
    found = default(sql, kind)
    assert (found.sql if isinstance(found, Translation) else None) == expected


def test_a_refused_default_says_what_it_gives_to_which_type() -> None:
    assert default("'x'", sa.Integer()) == NotTranslated(
        "gives the text x to a column of the type integer"
    )


def test_a_generated_column_gets_the_type_of_its_column() -> None:
    found = generated("j ->> '$.n'", COLUMNS, sa.BigInteger())
    assert isinstance(found, Translation)
    assert found.sql.endswith("::bigint")
    assert generated("t || u", COLUMNS, sa.Text()) == Translation('("t" || "u")')


def test_parts_of_an_index_keep_collation_and_direction() -> None:
    assert index_part(IndexPart("t", descending=True), COLUMNS) == Translation('"t" DESC')
    assert index_part(IndexPart(expression="i + 1"), COLUMNS) == Translation('(("i")::bigint + 1)')
    nocase = index_part(IndexPart("t", collation="NOCASE"), COLUMNS)
    assert isinstance(nocase, Translation)
    assert (nocase.sql, bool(nocase.note)) == ('(lower("t"))', True)


ARTIST = TargetRelation(
    '"s"."artist"',
    {"id": TargetColumn("id", sa.BigInteger()), "name": TargetColumn("Name", sa.Text())},
)
ALBUM = TargetRelation(
    '"s"."album"',
    {
        "id": TargetColumn("id", sa.BigInteger()),
        "artist": TargetColumn("artist", sa.BigInteger()),
        "price": TargetColumn("price", sa.Numeric()),
    },
)
TABLES = {"artist": ARTIST, "album": ALBUM}


def test_a_view_is_translated_with_the_names_of_the_target() -> None:
    declared = View(
        "best",
        "CREATE VIEW best AS SELECT a.name, count(*) AS n, sum(price) total FROM Artist a"
        " LEFT JOIN album ON album.artist = a.id WHERE a.id > 0 GROUP BY a.name"
        " HAVING count(*) > 1 ORDER BY n DESC LIMIT 5",
        ("name", "n", "total"),
    )
    found = view(declared, TABLES, sql_name='"s"."best"')
    assert isinstance(found, TranslatedView)
    assert found.sql.startswith(
        'CREATE VIEW "s"."best" ("name", "n", "total") AS SELECT "a"."Name" AS "name",'
        ' count(*) AS "n", sum("album"."price") AS "total" FROM "s"."artist" AS "a"'
        ' LEFT JOIN "s"."album" AS "album" ON ("album"."artist" = "a"."id") WHERE'
    )
    assert found.sql.endswith("ORDER BY count(*) DESC NULLS LAST LIMIT 5")
    assert list(found.relation.columns) == ["name", "n", "total"]


def test_a_view_of_all_columns_lists_them() -> None:
    declared = View("v", "CREATE VIEW v AS SELECT * FROM artist JOIN album USING (id)")
    found = view(declared, TABLES, sql_name='"v"')
    assert isinstance(found, TranslatedView)
    assert list(found.relation.columns) == ["id", "name", "artist", "price"]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT * FROM gone", "reads gone, which the target does not have"),
        (
            "WITH RECURSIVE c AS (SELECT 1 UNION SELECT 2) SELECT * FROM c",
            "is recursive",
        ),
        ("SELECT own(id) FROM album", "calls the function own, which has no equal in PostgreSQL"),
        ("SELECT * FROM json_each('[1]')", "reads from what is no table"),
    ],
)
def test_a_view_without_an_equal_is_refused(sql: str, reason: str) -> None:
    found = view(View("v", f"CREATE VIEW v AS {sql}"), TABLES, sql_name='"v"')
    assert found == NotTranslated(reason)


def test_views_come_after_those_that_they_read() -> None:
    def declared(name: str, reads: str) -> View:
        return View(name, f"CREATE VIEW {name} AS SELECT * FROM {reads}")

    views = [
        *(declared("c", "B"), declared("b", "album"), declared("lost", "gone")),
        *(declared("loop", "ring"), declared("ring", "loop"), declared("own", "own")),
    ]
    found, refused = view_order.ordered(views, ["Album"])
    assert [each.name for each in found] == ["b", "c"]
    assert {name: each.reason for name, each in refused.items()} == {
        "lost": "reads gone, which was not copied",
        "loop": "reads the view ring, which is not carried",
        "ring": "reads the view loop, which is not carried",
        "own": "reads itself",
    }
