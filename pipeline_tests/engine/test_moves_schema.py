"""The moved schema is the plan's, whatever the source adds and whatever the target has already."""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import PipelineError, ShapeError, SourceError
from pipeline.core.findings import Drift
from pipeline.core.policies import Policies
from pipeline.migrations.content import metadata
from pipeline.move.run.transaction import MoveResult
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import new_database, query

PLAN_DDL = """
CREATE TABLE learning_content (
    id SERIAL PRIMARY KEY,
    title VARCHAR(200) NOT NULL,
    content_type VARCHAR(50) NOT NULL,
    language VARCHAR(10) NOT NULL DEFAULT 'thai',
    native_text TEXT NOT NULL,
    translation TEXT NOT NULL,
    ipa TEXT NOT NULL,
    difficulty_level INTEGER,
    tags JSONB,
    content_metadata JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);
CREATE INDEX idx_learning_content_type ON learning_content(content_type);
CREATE INDEX idx_learning_content_language ON learning_content(language);
CREATE INDEX idx_learning_content_title ON learning_content(title);
CREATE INDEX idx_learning_content_tags ON learning_content USING GIN(tags);
CREATE INDEX idx_learning_content_metadata ON learning_content USING GIN(content_metadata);
CREATE TABLE content_fragments (
    id SERIAL PRIMARY KEY,
    native_text TEXT NOT NULL,
    body_text TEXT NOT NULL,
    ipa TEXT,
    extra TEXT,
    fragment_type VARCHAR(50) NOT NULL,
    fragment_metadata JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    learning_content_id INTEGER REFERENCES learning_content(id) ON DELETE CASCADE
);
CREATE INDEX idx_fragment_type ON content_fragments(fragment_type);
CREATE INDEX idx_fragment_text ON content_fragments(native_text);
CREATE INDEX idx_fragment_content ON content_fragments(learning_content_id);
CREATE TABLE fragment_assets (
    id SERIAL PRIMARY KEY,
    fragment_id INTEGER REFERENCES content_fragments(id) ON DELETE CASCADE,
    asset_type VARCHAR(20) NOT NULL CHECK (asset_type IN ('audio', 'image', 'video')),
    asset_data BYTEA NOT NULL,
    asset_metadata JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    created_by VARCHAR(100)
);
CREATE INDEX idx_fragment_asset_type ON fragment_assets(fragment_id, asset_type);
CREATE INDEX idx_fragment_asset_created ON fragment_assets(created_at);
CREATE TABLE rankings (
    id SERIAL PRIMARY KEY,
    fragment_id INTEGER REFERENCES content_fragments(id) ON DELETE CASCADE,
    asset_id INTEGER REFERENCES fragment_assets(id) ON DELETE CASCADE,
    rank_score DECIMAL(3,2) DEFAULT 0.0 CHECK (rank_score >= 0.0 AND rank_score <= 5.0),
    assessed_by VARCHAR(100) NOT NULL,
    assessment_notes TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);
CREATE INDEX idx_rankings_fragment ON rankings(fragment_id);
CREATE INDEX idx_rankings_asset ON rankings(asset_id);
CREATE INDEX idx_rankings_score ON rankings(rank_score DESC);
"""
"""The DDL of the plan, word for word without its comments."""

_CATALOG = {
    "columns": "SELECT c.relname, a.attname, format_type(atttypid, atttypmod), attnotnull,"
    " pg_get_expr(adbin, adrelid), attidentity::text, attgenerated::text,"
    " attcollation::regcollation::text FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
    " LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum"
    " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    " AND attnum > 0 AND NOT attisdropped ORDER BY relname, attnum",
    "constraints": "SELECT conrelid::regclass::text, conname, contype::text,"
    " pg_get_constraintdef(oid), convalidated FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
    "indexes": "SELECT c.relname, pg_get_indexdef(indexrelid), indisvalid, indisunique"
    " FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
    " WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
    "sequences": "SELECT s.seqrelid::regclass::text, format_type(seqtypid, NULL), seqstart,"
    " seqincrement, seqmin, seqmax, seqcycle, d.refobjid::regclass::text, d.refobjsubid"
    " FROM pg_sequence s JOIN pg_depend d ON d.objid = seqrelid AND deptype = 'a' ORDER BY 1",
    "relations": "SELECT relname, relkind::text, relpersistence::text, reloptions FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
}

_CARRIED = [
    (
        "learning_content",
        "last_review_at",
        "timestamp with time zone",
        False,
        None,
        "",
        "",
        "-",
    )
]

_numbers = itertools.count()
TABLES = metadata.sorted_tables


def schema_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the catalog says of schema public."""
    return {name: query(url, sql) for name, sql in _CATALOG.items()}


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """The schema, the rows and which other schemas there are."""
    rows = {
        name: query(url, f"SELECT t::text FROM {name} t ORDER BY 1")
        for name, kind, *_ in query(url, _CATALOG["relations"])
        if kind in "rv"
    }
    schemas = query(url, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1")
    return {**schema_of(url), **rows, "schemas": schemas}


def storage_of(url: str, table: str) -> dict[str, str]:
    sql = "SELECT attname, attstorage::text FROM pg_attribute WHERE attrelid = %s::regclass"
    return dict(query(url, sql, (table,)))


@pytest.fixture
def planned(server: URL) -> Iterator[str]:
    """The URL of another database, in which the plan's DDL has been executed."""
    with new_database(server, f"planned_{next(_numbers)}") as made:
        query(libpq(made), PLAN_DDL)
        yield libpq(made)


@pytest.mark.parametrize("contents", [0, 3])
def test_the_moved_schema_is_the_plans_and_the_carried_column(
    source: SourceFile, target_url: str, planned: str, contents: int
) -> None:
    source.add_family(contents=contents)
    move_all(source.path, target_url)
    moved, plan = schema_of(target_url), schema_of(planned)
    assert [row for row in moved["columns"] if row not in _CARRIED] == plan["columns"]
    assert [row for row in moved["columns"] if row in _CARRIED] == _CARRIED
    for part in ("constraints", "indexes", "sequences", "relations"):
        assert moved[part] == plan[part], part


def test_all_thirteen_named_indexes_are_there(source: SourceFile, target_url: str) -> None:
    named = set(re.findall(r"CREATE INDEX (\w+)", PLAN_DDL))
    assert len(named) == 13
    source.add_family(contents=1)
    move_all(source.path, target_url)
    there = {name for name, *_ in schema_of(target_url)["indexes"]}
    assert there == named | {
        "learning_content_pkey",
        "content_fragments_pkey",
        "fragment_assets_pkey",
        "rankings_pkey",
    }


def test_sound_files_are_stored_without_trying_to_compress_them(
    source: SourceFile, target_url: str, planned: str
) -> None:
    move_all(source.path, target_url)
    moved, plan = storage_of(target_url, "fragment_assets"), storage_of(planned, "fragment_assets")
    assert moved == {**plan, "asset_data": "e"}
    assert plan["asset_data"] == "x"


def test_ids_go_on_behind_the_largest_one(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 7}, {"id": 4000})
    move_all(source.path, target_url)
    sql = (
        "INSERT INTO learning_content (title, content_type, native_text, translation, ipa)"
        " VALUES ('new', 'word', 'a', 'b', 'c') RETURNING id, language, created_at IS NOT NULL"
    )
    assert query(target_url, sql) == [(4001, "thai", True)]


Extra = tuple[str, str, Any, str, Any]
"""Name, declared type and value in the source, then type and value in the target."""

_SEEN = datetime(2025, 8, 6, 3, 7, 13, 500_000, UTC)
EXTRA_TYPES: list[Extra] = [
    ("streak", "INTEGER", 2**40, "bigint", 2**40),
    ("tiny", "TINYINT(1)", -1, "bigint", -1),
    ("note", "TEXT", "ไม่มี ''", "text", "ไม่มี ''"),
    ("label", "VARCHAR(3)", "longer than three", "text", "longer than three"),
    ("cover", "BLOB", b"\x00\xff\x00", "bytea", b"\x00\xff\x00"),
    ("ease", "REAL", 0.1, "double precision", 0.1),
    ("price", "DECIMAL(10,2)", 12.34, "double precision", 12.34),
    ("is_hidden", "BOOLEAN", 1, "boolean", True),
    ("due", "DATE", "2025-08-06", "text", "2025-08-06"),
    ("seen_at", "TIMESTAMP", "2025-08-06 03:07:13.5", "timestamp with time zone", _SEEN),
    ("options", "JSON", '{"b": [1, null]}', "jsonb", {"b": [1, None]}),
    ("anything", "", "as text", "text", "as text"),
]
EXTRA_NAMES: list[Extra] = [
    (name, "TEXT", "x", "text", "x")
    for name in ("order", 'quo"ted', "ก Mixed", "50%", "a:b", "a.b", "$1", "n" * 63)
]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _add_columns(source: SourceFile, columns: list[Extra]) -> None:
    for name, declared, value, *_ in columns:
        quoted = _quoted(name)
        source.run(f"ALTER TABLE learning_content ADD COLUMN {quoted} {declared}")
        source.run(f"UPDATE learning_content SET {quoted} = ? WHERE id = 1", (value,))


def _assert_carried(url: str, move: MoveResult, columns: list[Extra]) -> None:
    assert move.quarantined_rows == 0
    types = {row[1]: row[2:5] for row in schema_of(url)["columns"] if row[0] == move.table}
    for name, _, _, kind, expected in columns:
        found = query(url, f"SELECT {_quoted(name)} FROM learning_content ORDER BY id")
        values = [bytes(v) if isinstance(v, memoryview) else v for (v,) in found]
        assert values == [expected, None], name
        assert types[name] == (kind, False, None), name
    drift = next(check for check in move.checks if check.name == "drift")
    assert (drift.passed, drift.blocking) == (False, False)
    assert {(f.table, f.column, f.kind) for f in drift.findings if isinstance(f, Drift)} == {
        (move.table, name, "carried") for name in ("last_review_at", *(c[0] for c in columns))
    }


@pytest.mark.parametrize("late", [False, True], ids=["filling", "merging"])
def test_columns_that_only_the_source_has_are_carried_and_reported(
    source: SourceFile, target_url: str, late: bool
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2})
    if late:
        move_all(source.path, target_url)
    _add_columns(source, EXTRA_TYPES)
    move = move_all(source.path, target_url)["learning_content"]
    assert move.strategy == ("merged" if late else "filled")
    _assert_carried(target_url, move, EXTRA_TYPES)


@pytest.mark.parametrize("column", EXTRA_NAMES, ids=lambda column: column[0][:8])
def test_a_column_of_any_name_is_carried(
    source: SourceFile, target_url: str, column: Extra
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2})
    _add_columns(source, [column])
    move = move_all(source.path, target_url, tables=TABLES[:1])["learning_content"]
    _assert_carried(target_url, move, [column])


@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
def test_a_column_that_the_source_computes_is_carried(
    tmp_path: Path, target_url: str, kind: str
) -> None:
    computed = f"last_review_at DATETIME, twice INTEGER GENERATED ALWAYS AS (id * 2) {kind}"
    ddl = CONTENT_DDL.replace("last_review_at DATETIME", computed)
    source = SourceFile.make(tmp_path / "computed.db", ddl)
    source.add("learning_content", {"id": 21})
    move = move_all(source.path, target_url, tables=TABLES[:1])["learning_content"]
    drift = next(check for check in move.checks if check.name == "drift")
    assert "twice" in {f.column for f in drift.findings if isinstance(f, Drift)}
    assert query(target_url, "SELECT twice FROM learning_content") == [(42,)]


def test_a_carried_column_stays_when_the_source_drops_it(
    source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1})
    _add_columns(source, EXTRA_TYPES)
    move_all(source.path, target_url, tables=TABLES[:1])
    source.run("ALTER TABLE learning_content DROP COLUMN note")
    move = move_all(source.path, target_url, tables=TABLES[:1])["learning_content"]
    assert move.strategy == "unchanged"
    assert query(target_url, "SELECT note FROM learning_content") == [("ไม่มี ''",)]


def test_without_drift_the_check_passes(tmp_path: Path, target_url: str) -> None:
    plain = CONTENT_DDL.replace(", last_review_at DATETIME", "")
    source = SourceFile.make(tmp_path / "plain.db", plain)
    moves = move_all(source.path, target_url)
    assert {c.passed for m in moves.values() for c in m.checks if c.name == "drift"} == {True}


def test_an_optional_column_that_the_source_lacks_gets_its_default_by_policy(
    source: SourceFile, target_url: str, planned: str
) -> None:
    source.add("learning_content", {"id": 1})
    for column in ("difficulty_level", "language", "last_review_at"):
        source.run(f"ALTER TABLE learning_content DROP COLUMN {column}")
    policies = Policies(missing_columns="default")
    move = move_all(source.path, target_url, policies=policies)["learning_content"]
    sql = "SELECT difficulty_level, language FROM learning_content"
    assert query(target_url, sql) == [(None, "thai")]
    assert schema_of(target_url) == schema_of(planned)
    drift = next(check for check in move.checks if check.name == "drift")
    assert {(f.column, f.kind) for f in drift.findings if isinstance(f, Drift)} == {
        ("difficulty_level", "missing"),
        ("language", "missing"),
    }


@pytest.mark.parametrize("column", ["id", "title", "ipa"])
def test_a_required_column_that_the_source_lacks_is_named(
    tmp_path: Path, target_url: str, column: str
) -> None:
    ddl = re.sub(rf"\b{column} \w+(\(\d+\))? NOT NULL( PRIMARY KEY)?,", "", CONTENT_DDL, count=1)
    source = SourceFile.make(tmp_path / "old.db", ddl)
    before = everything(target_url)
    with pytest.raises(SourceError, match=rf"learning_content .* no column {column}\b") as caught:
        move_all(source.path, target_url)
    assert str(caught.value).endswith(caught.value.remedy + ".")
    assert everything(target_url) == before


def test_a_column_of_another_type_is_reported(tmp_path: Path, target_url: str) -> None:
    ddl = (
        CONTENT_DDL.replace("difficulty_level INTEGER", "difficulty_level TEXT")
        .replace("asset_data BLOB", "asset_data TEXT")
        .replace("content_metadata JSON", "content_metadata BLOB")
    )
    source = SourceFile.make(tmp_path / "retyped.db", ddl)
    moves = move_all(source.path, target_url)
    retyped = {
        (f.table, f.column): f.detail
        for move in moves.values()
        for check in move.checks
        for f in check.findings
        if isinstance(f, Drift) and f.kind == "retyped"
    }
    assert set(retyped) == {
        ("learning_content", "difficulty_level"),
        ("learning_content", "content_metadata"),
        ("fragment_assets", "asset_data"),
    }
    assert "TEXT" in retyped["learning_content", "difficulty_level"]
    assert "INTEGER" in retyped["learning_content", "difficulty_level"]


def test_tables_that_are_there_and_empty_keep_the_plans_schema(
    source: SourceFile, target_url: str, planned: str
) -> None:
    query(target_url, PLAN_DDL)
    source.add_family(contents=2)
    assert {m.strategy for m in move_all(source.path, target_url).values()} == {"filled"}
    moved, plan = schema_of(target_url), schema_of(planned)
    assert [row for row in moved["columns"] if row not in _CARRIED] == plan["columns"]
    for part in ("constraints", "indexes", "sequences", "relations"):
        assert moved[part] == plan[part], part


_OF_THE_USER = """
GRANT SELECT, INSERT ON rankings TO pg_monitor;
GRANT SELECT (id, title), UPDATE (title) ON learning_content TO pg_read_all_stats;
ALTER TABLE fragment_assets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_assets ON fragment_assets FOR SELECT TO pg_monitor USING (created_by = 'me');
COMMENT ON TABLE rankings IS 'of the user';
COMMENT ON COLUMN rankings.rank_score IS 'also of the user';
CREATE INDEX of_the_user ON content_fragments (lower(body_text));
ALTER TABLE content_fragments ADD CONSTRAINT of_the_user_too CHECK (id > -5);
CREATE TABLE bookmarks (id integer PRIMARY KEY,
  content integer REFERENCES learning_content, asset integer REFERENCES fragment_assets);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER of_the_user AFTER INSERT OR UPDATE ON rankings EXECUTE FUNCTION tell();
CREATE TRIGGER per_row AFTER UPDATE ON learning_content FOR EACH ROW EXECUTE FUNCTION tell();
ALTER TABLE learning_content DISABLE TRIGGER per_row;
"""

_OWN = {
    "grants": "SELECT relname, relacl::text FROM pg_class WHERE relkind = 'r'"
    " AND relnamespace = 'public'::regnamespace ORDER BY 1",
    "column grants": "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute"
    " WHERE attacl IS NOT NULL AND attrelid::regclass::text !~ '^pg_' ORDER BY 1, 2",
    "policies": "SELECT * FROM pg_policies ORDER BY 1, 2, 3",
    "security": "SELECT relname FROM pg_class WHERE relrowsecurity",
    "comments": "SELECT objoid::regclass::text, objsubid, description FROM pg_description"
    " WHERE objoid > 16384 ORDER BY 1, 2",
    "triggers": "SELECT pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger"
    " WHERE NOT tgisinternal ORDER BY 1",
    "of the user": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conname ~ '^(of_the_user|bookmarks)' ORDER BY 1",
    "index of the user": "SELECT indexdef FROM pg_indexes WHERE indexname = 'of_the_user'",
}


@pytest.mark.parametrize("again", [False, True], ids=["filling", "merging"])
def test_what_the_user_added_to_the_tables_stays(
    source: SourceFile, target_url: str, again: bool
) -> None:
    if again:
        source.add_family(contents=1)
        move_all(source.path, target_url)
    else:
        query(target_url, PLAN_DDL)
    query(target_url, _OF_THE_USER)
    before = {name: query(target_url, sql) for name, sql in _OWN.items()}
    assert all(before.values())
    source.add("learning_content", {"id": 50})
    source.add("content_fragments", {"id": 50, "learning_content_id": 50})
    source.add("fragment_assets", {"id": 50, "fragment_id": 50})
    source.add("rankings", {"id": 50, "fragment_id": 50})
    assert {m.written_rows for m in move_all(source.path, target_url).values()} == {1}
    assert {name: query(target_url, sql) for name, sql in _OWN.items()} == before


def test_a_view_that_needs_the_primary_key_does_not_stop_the_filling(
    source: SourceFile, target_url: str
) -> None:
    query(target_url, PLAN_DDL)
    query(
        target_url,
        "CREATE VIEW by_asset AS SELECT r.id, r.rank_score, count(*) FROM rankings r GROUP BY r.id",
    )
    source.add_family(contents=1)
    assert move_all(source.path, target_url)["rankings"].moved_rows == 4
    assert len(query(target_url, "SELECT * FROM by_asset")) == 4


SHAPES = {
    "a wrong type": (
        "ALTER TABLE rankings ALTER COLUMN assessed_by TYPE text",
        ["rankings", "assessed_by is text instead of character varying(100)"],
    ),
    "a wrong length and a wrong scale": (
        "ALTER TABLE rankings ALTER COLUMN assessed_by TYPE varchar(50),"
        " ALTER COLUMN rank_score TYPE numeric(4,3)",
        ["assessed_by is character varying(50)", "rank_score is numeric(4,3)"],
    ),
    "a moment without zone": (
        "ALTER TABLE rankings ALTER COLUMN created_at TYPE timestamp",
        ["created_at is timestamp without time zone instead of timestamp with time zone"],
    ),
    "a missing column": (
        "ALTER TABLE rankings DROP COLUMN assessment_notes",
        ["rankings", "assessment_notes is missing"],
    ),
    "a required column": (
        "ALTER TABLE rankings ADD COLUMN owner text NOT NULL",
        ["rankings", "owner is required but not declared"],
    ),
    "a view": (
        "ALTER TABLE rankings RENAME TO old; CREATE VIEW rankings AS SELECT * FROM old",
        ["rankings", "is a view, not a table"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_of_another_shape_is_refused_and_nothing_changes(
    source: SourceFile, target_url: str, shape: str
) -> None:
    ddl, named = SHAPES[shape]
    source.add_family(contents=1)
    query(target_url, PLAN_DDL)
    move_all(source.path, target_url, tables=TABLES[:3])
    query(target_url, ddl)
    before = everything(target_url)
    with pytest.raises(ShapeError) as caught:
        move_all(source.path, target_url, tables=TABLES[3:])
    assert all(words in str(caught.value) for words in named), str(caught.value)
    assert str(caught.value).endswith(caught.value.remedy + ".")
    assert everything(target_url) == before


def test_a_lost_primary_key_is_put_back(source: SourceFile, target_url: str, planned: str) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey")
    source.add("rankings", {"id": 99})
    assert move_all(source.path, target_url)["rankings"].moved_rows == 5
    assert schema_of(target_url)["constraints"] == schema_of(planned)["constraints"]


def test_a_target_that_holds_an_id_twice_is_refused_by_name(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(
        target_url,
        "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey;"
        " INSERT INTO rankings SELECT * FROM rankings WHERE id = 3",
    )
    before = everything(target_url)
    with pytest.raises(PipelineError, match="rankings"):
        move_all(source.path, target_url)
    assert everything(target_url) == before
