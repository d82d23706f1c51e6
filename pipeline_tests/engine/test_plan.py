"""A plan tells what a move would do, does nothing itself, and the move then does just that."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.core.errors import SourceError
from pipeline.core.findings import Drift, Lossy, Quarantined
from pipeline.core.policies import Policies
from pipeline.migrations.content import metadata
from pipeline.move.run.plan import ColumnPlan, TablePlan
from pipeline.move.run.transaction import MoveResult
from pipeline.reporting import grids
from pipeline_tests.support.commands import Ran, command, usable
from pipeline_tests.support.plans import TABLES, found_by, moved, planned
from pipeline_tests.support.sources import CONTENT_DDL, DEFAULTS, SourceFile
from pipeline_tests.support.targets import query

NAMES = [table.name for table in TABLES]


_DDL = CONTENT_DDL.replace("body_text TEXT NOT NULL, ipa TEXT,", "body_text TEXT NOT NULL,")
_DEFAULTS = Policies(missing_columns="default")
_DDL = _DDL.replace("assessment_notes TEXT", "assessment_notes BLOB")


@pytest.fixture
def crafted(tmp_path: Path) -> SourceFile:
    """Two sound contents, and one row for each thing that a plan has to tell."""
    source = SourceFile.make(tmp_path / "crafted.db", _DDL)
    source.add_family(contents=2)
    twice = '{"level": 1, "level": 2}'
    undated = {"created_at": None, "updated_at": None}
    source.add(
        "learning_content",
        {"id": 3, "title": "x" * 201, **undated},
        {"id": 4, "created_at": "2025-08-06T10:07+07:00", "updated_at": "2025-08-06"},
        {"id": 5, "difficulty_level": "hard", **undated},
        {"id": 6, "content_metadata": twice, "last_review_at": "2025-08-06 03:07:13.1234567Z"},
        {"id": 7, "tags": 1.5},
    )
    source.add(
        "content_fragments",
        {"id": 5, "learning_content_id": 3},
        {"id": 6, "learning_content_id": 99},
    )
    source.add(
        "fragment_assets",
        {"id": 5, "fragment_id": 5},
        {"id": 6, "asset_data": None, "asset_type": "document", "created_at": None},
    )
    source.add(
        "rankings",
        {"id": 9, "fragment_id": 5},
        {"id": 10, "fragment_id": 6, "asset_id": 6},
        {"id": 11, "rank_score": 3.14159},
        {"id": 12, "rank_score": 7.5, **undated},
        {"id": 13, "rank_score": 2.675, "assessment_notes": "fine"},
    )
    return source


_MICRO, _ISO = "YYYY-MM-DD HH:MM:SS.ffffff", "YYYY-MM-DDTHH:MM+HH:MM"
_STAMP, _LONG = "timestamp with time zone", "character varying(200)"
_SCORE = "breaks the rule rank_score >= 0.0 AND rank_score <= 5.0"
_TYPE = "breaks the rule asset_type IN ('audio', 'image', 'video')"


def _column(
    name: str, source: str, target: str, dates: dict[str, int] | None = None, **storage: int
) -> ColumnPlan:
    return ColumnPlan(name, source, target, storage, dates or {})


GOLDEN = {
    "learning_content": TablePlan(
        "learning_content",
        7,
        0,
        (
            _column("id", "INTEGER", "integer", integer=7),
            _column("title", "VARCHAR(200)", _LONG, text=7),
            _column("content_type", "VARCHAR(50)", "character varying(50)", text=7),
            _column("language", "VARCHAR(10)", "character varying(10)", text=7),
            _column("native_text", "TEXT", "text", text=7),
            _column("translation", "TEXT", "text", text=7),
            _column("ipa", "TEXT", "text", text=7),
            _column("difficulty_level", "INTEGER", "integer", integer=6, text=1),
            _column("tags", "JSON", "jsonb", text=6, real=1),
            _column("content_metadata", "JSON", "jsonb", text=7),
            _column("created_at", "DATETIME", _STAMP, {_MICRO: 4, _ISO: 1}, text=5, null=2),
            _column("updated_at", "DATETIME", _STAMP, {_MICRO: 4, "YYYY-MM-DD": 1}, text=5, null=2),
            _column(
                "last_review_at",
                "DATETIME",
                _STAMP,
                {"YYYY-MM-DD HH:MM:SS.fffffffZ": 1},
                null=6,
                text=1,
            ),
        ),
        2,
        (
            Quarantined("learning_content", "is longer than 200 characters", "title", 1, ("3",)),
            Quarantined("learning_content", "is not integer", "difficulty_level", 1, ("5",)),
        ),
        (
            Lossy(
                "learning_content",
                "content_metadata",
                1,
                (("6", '{"level": 1, "level": 2}', "the last of each name"),),
            ),
            Lossy(
                "learning_content",
                "last_review_at",
                1,
                (("6", "2025-08-06 03:07:13.1234567Z", "2025-08-06 03:07:13.123457Z"),),
            ),
        ),
        (
            Drift(
                "learning_content",
                "last_review_at",
                "carried",
                "added to the target as timestamp with time zone",
            ),
        ),
        None,
        (),
        None,
        0,
    ),
    "content_fragments": TablePlan(
        "content_fragments",
        6,
        0,
        (
            _column("id", "INTEGER", "integer", integer=6),
            _column("native_text", "TEXT", "text", text=6),
            _column("body_text", "TEXT", "text", text=6),
            _column("extra", "TEXT", "text", null=6),
            _column("fragment_type", "VARCHAR(50)", "character varying(50)", text=6),
            _column("fragment_metadata", "JSON", "jsonb", null=6),
            _column("created_at", "DATETIME", _STAMP, {_MICRO: 6}, text=6),
            _column("updated_at", "DATETIME", _STAMP, {_MICRO: 6}, text=6),
            _column("learning_content_id", "INTEGER", "integer", integer=6),
        ),
        2,
        (
            Quarantined(
                "content_fragments",
                "refers to a row of learning_content that is in quarantine",
                "learning_content_id",
                1,
                ("5",),
            ),
            Quarantined(
                "content_fragments",
                "refers to a row of learning_content that is not in the source",
                "learning_content_id",
                1,
                ("6",),
            ),
        ),
        (),
        (Drift("content_fragments", "ipa", "missing", "the source lacks it"),),
        None,
        (),
        None,
        0,
    ),
    "fragment_assets": TablePlan(
        "fragment_assets",
        6,
        0,
        (
            _column("id", "INTEGER", "integer", integer=6),
            _column("fragment_id", "INTEGER", "integer", integer=6),
            _column("asset_type", "VARCHAR(20)", "character varying(20)", text=6),
            _column("asset_data", "BLOB", "bytea", null=1, blob=5),
            _column("asset_metadata", "JSON", "jsonb", null=6),
            _column("created_at", "DATETIME", _STAMP, {_MICRO: 5}, text=5, null=1),
            _column("created_by", "VARCHAR(100)", "character varying(100)", null=6),
        ),
        2,
        (
            Quarantined("fragment_assets", _TYPE, "asset_type", 1, ("6",)),
            Quarantined("fragment_assets", "is NULL", "asset_data", 1, ("6",)),
            Quarantined(
                "fragment_assets",
                "refers to a row of content_fragments that is in quarantine",
                "fragment_id",
                1,
                ("5",),
            ),
        ),
        (),
        (),
        None,
        (),
        None,
        0,
    ),
    "rankings": TablePlan(
        "rankings",
        13,
        0,
        (
            _column("id", "INTEGER", "integer", integer=13),
            _column("fragment_id", "INTEGER", "integer", integer=13),
            _column("asset_id", "INTEGER", "integer", null=8, integer=5),
            _column("rank_score", "FLOAT", "numeric(3,2)", real=13),
            _column("assessed_by", "VARCHAR(100)", "character varying(100)", text=13),
            _column("assessment_notes", "BLOB", "text", null=12, text=1),
            _column("created_at", "DATETIME", _STAMP, {_MICRO: 12}, text=12, null=1),
            _column("updated_at", "DATETIME", _STAMP, {_MICRO: 12}, text=12, null=1),
        ),
        3,
        (
            Quarantined(
                "rankings",
                "refers to a row of content_fragments that is in quarantine",
                "fragment_id",
                2,
                ("9", "10"),
            ),
            Quarantined("rankings", _SCORE, "rank_score", 1, ("12",)),
            Quarantined(
                "rankings",
                "refers to a row of fragment_assets that is in quarantine",
                "asset_id",
                1,
                ("10",),
            ),
        ),
        (
            Lossy(
                "rankings",
                "rank_score",
                2,
                (("11", "3.14159", "3.14"), ("13", "2.675", "2.68")),
            ),
        ),
        (
            Drift(
                "rankings",
                "assessment_notes",
                "retyped",
                "declared BLOB in the source, TEXT in the target",
            ),
        ),
        None,
        (),
        None,
        0,
    ),
}


def test_a_plan_tells_all_that_a_move_would_do(
    crafted: SourceFile, target_url: str, tmp_path: Path
) -> None:
    plans = planned(crafted, target_url, tmp_path, policies=_DEFAULTS)
    assert list(plans) == NAMES
    for name, expected in GOLDEN.items():
        plan = replace(plans[name], bytes=0)
        for ours, theirs in zip(plan.columns, expected.columns, strict=True):
            assert ours == theirs
        assert replace(plan, columns=()) == replace(expected, columns=())


def test_bytes_are_those_of_the_values(source: SourceFile, target_url: str, tmp_path: Path) -> None:
    source.add("learning_content", {"id": 1})
    source.add("content_fragments", {"id": 1})
    source.add("fragment_assets", {"id": 1, "asset_data": bytes(1000)})
    plan = planned(source, target_url, tmp_path)["fragment_assets"]
    texts = len("audio") + len(str(DEFAULTS["fragment_assets"]["created_at"]))
    assert plan.bytes == 7 * 8 + 1000 + texts


def test_a_plan_says_what_the_target_holds(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    plans = planned(source, target_url, tmp_path)
    assert {plan.target_rows for plan in plans.values()} == {None}
    moved(source, target_url)
    query(
        target_url,
        "ALTER TABLE learning_content ADD COLUMN own text, ADD COLUMN mine integer;"
        " ALTER TABLE content_fragments ALTER extra TYPE varchar(9);"
        " ALTER TABLE fragment_assets ADD COLUMN needed text NOT NULL DEFAULT '';"
        " ALTER TABLE fragment_assets ALTER needed DROP DEFAULT; DELETE FROM rankings",
    )
    plans = planned(source, target_url, tmp_path)
    assert [plan.target_rows for plan in plans.values()] == [2, 4, 4, 0]
    assert plans["learning_content"].target_only == ("mine", "own")
    assert plans["rankings"].target_only == ()
    obstacles = {name: plan.obstacle for name, plan in plans.items() if plan.obstacle}
    another = "of the target has a different shape"
    remedy = "Rename or drop that table, or set DATABASE_URL to another database."
    assert obstacles == {
        "content_fragments": (
            f"Table content_fragments {another}: extra is character varying(9) instead of text."
            f" {remedy}"
        ),
        "fragment_assets": (
            f"Table fragment_assets {another}: needed is required but not declared. {remedy}"
        ),
    }


def test_what_bears_the_name_and_is_no_table_is_an_obstacle(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    query(target_url, "CREATE VIEW rankings AS SELECT 1 AS id")
    plan = planned(source, target_url, tmp_path)["rankings"]
    assert plan.obstacle == (
        "public.rankings in the target is a view, not a table. Rename or drop it."
    )


def test_a_lossy_value_is_an_obstacle_where_the_policy_is_to_fail(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.run("UPDATE rankings SET rank_score = 3.14159 WHERE id = 3")
    plans = planned(source, target_url, tmp_path, policies=Policies(lossy_conversions="fail"))
    assert [name for name, plan in plans.items() if plan.obstacle] == ["rankings"]
    assert "rank_score" in str(plans["rankings"].obstacle)


FORMS = {
    "2025-08-06": "YYYY-MM-DD",
    "2025-08-06 03:07": "YYYY-MM-DD HH:MM",
    "2025-08-06T03:07Z": "YYYY-MM-DDTHH:MMZ",
    "2025-08-06 03:07:13": "YYYY-MM-DD HH:MM:SS",
    "2025-08-06 03:07:13Z": "YYYY-MM-DD HH:MM:SSZ",
    "2025-08-06 03:07:13-07:00": "YYYY-MM-DD HH:MM:SS+HH:MM",
    "2025-08-06T03:07:13.5+07:00": "YYYY-MM-DDTHH:MM:SS.f+HH:MM",
    "2025-08-06 03:07:13.123": "YYYY-MM-DD HH:MM:SS.fff",
    "2025-08-06 03:07:13.12 +07:00": "YYYY-MM-DD HH:MM:SS.ff +HH:MM",
    "2025-08-06 03:07:13.123+07:00": "YYYY-MM-DD HH:MM:SS.fff+HH:MM",
    "2025-08-06 03:07:13.1234567": "YYYY-MM-DD HH:MM:SS.fffffff",
}


def test_every_form_of_a_date_is_told_apart(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    rows = [{"id": at, "created_at": text} for at, text in enumerate(FORMS, start=1)]
    source.add("learning_content", *rows)
    plan = planned(source, target_url, tmp_path, tables=TABLES[:1])["learning_content"]
    forms = {column.name: column.date_formats for column in plan.columns}
    assert plan.rejected_rows == 0
    assert forms["created_at"] == dict.fromkeys(FORMS.values(), 1)


def test_a_text_that_is_no_date_is_counted_among_the_forms(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    texts = ["2025-08-06", "06/08/2025", "2025-08-06 x", b"2025-08-06\xff12:00", "\0"]
    for text in texts:
        source.add("learning_content", {})
        source.run(
            "UPDATE learning_content SET created_at = CAST(? AS TEXT)"
            " WHERE id = (SELECT max(id) FROM learning_content)",
            (text,),
        )
    plan = planned(source, target_url, tmp_path, tables=TABLES[:1])["learning_content"]
    (column,) = (column for column in plan.columns if column.name == "created_at")
    assert plan.rejected_rows == 4
    assert column.storage == {"text": 5}
    assert column.date_formats == {"YYYY-MM-DD": 1, "no date": 4}


# What is planned is what then happens.


def _counted(found: Sequence[Quarantined]) -> dict[tuple[str, str | None], int]:
    return {(each.reason, each.column): each.rows for each in found}


def _agrees(plan: TablePlan, move: MoveResult) -> None:
    assert plan.rows == move.source_rows
    assert plan.bytes == move.source_bytes
    assert plan.rejected_rows == move.quarantined_rows
    assert _counted(plan.rejections) == _counted(found_by(move, Quarantined))
    assert plan.drift == tuple(found_by(move, Drift))
    lossy = {(found.column, found.values) for found in found_by(move, Lossy)}
    assert {(found.column, found.values) for found in plan.lossy} == lossy


def test_the_move_does_what_the_plan_tells(
    crafted: SourceFile, target_url: str, tmp_path: Path
) -> None:
    plans = planned(crafted, target_url, tmp_path, policies=_DEFAULTS)
    moves = moved(crafted, target_url, policies=_DEFAULTS)
    for name in NAMES:
        _agrees(plans[name], moves[name])
        assert plans[name].rows - plans[name].rejected_rows == moves[name].moved_rows
    again = planned(crafted, target_url, tmp_path, policies=_DEFAULTS)
    rows = {name: moves[name].moved_rows for name in NAMES}
    assert again == {name: replace(plans[name], target_rows=rows[name]) for name in NAMES}


_TEXTS = ["", "x" * 11, "x" * 201, "a\0b", b"\xff\xfe", "video ", "Audio", 5, b"x", None]
_NUMBERS = [-1, 0, 3, 99, 2**31, -(2**63), 4.999, 5.004, 5.005, 9.995, 3.14159, 1e300, "abc", None]
_JSON = ["{}", "", "{bad", "nan", "[1,]", 1, 1.5, '{"a": 1, "a": 2}', "\xa0[1]", b"{}", None]
_DATES = [
    *("2025-08-06", "2025-08-06T10:11:12.1234567Z", "2025-08-06 10:11:12 +07:00", "2025-02-29"),
    *("2025-08-06 24:00", "2025-08-06 10:11:12.9999999", "next tuesday", "", "2025-08-06 10"),
    *("0000-01-01", "0001-01-01 00:00+07:00", "9999-12-31 23:59:59.9999999", "2025-08-06+07:00"),
    *(1754449633, b"2025-08-06", None),
]
_SPOILING: dict[tuple[str, ...], list[Any]] = {
    ("title", "language", "ipa", "native_text", "asset_type", "asset_data", "assessed_by"): _TEXTS,
    ("difficulty_level", "rank_score"): _NUMBERS,
    ("learning_content_id", "fragment_id", "asset_id"): [1, 2, 3, 4, 99, 1.5, "x", None],
    ("tags", "content_metadata", "fragment_metadata", "asset_metadata"): _JSON,
    ("created_at", "updated_at", "last_review_at"): _DATES,
}
_SPOILS = st.one_of(
    st.tuples(st.just(name), st.integers(1, 4), st.just(column.name), st.sampled_from(values))
    for name in NAMES
    for columns, values in _SPOILING.items()
    for column in metadata.tables[name].columns
    if column.name in columns
)
"""A table, a row of it, a column, and the value that it gets."""


@hypothesis_settings(
    max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(spoils=st.lists(_SPOILS, min_size=5, max_size=25))
def test_plan_and_move_reject_the_same_rows_for_the_same_reasons(
    tmp_path_factory: pytest.TempPathFactory, target_url: str, spoils: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("spoiled")
    source = SourceFile.make(
        folder / "source.db", CONTENT_DDL.replace(" NOT NULL,", ",").replace("NOT NULL REF", "REF")
    )
    source.add_family(contents=2)
    for table, key, column, value in spoils:
        # Bytes that begin like this stand for a text that is not UTF-8.
        slot = "CAST(? AS TEXT)" if value == b"\xff\xfe" else "?"
        source.run(f"UPDATE {table} SET {column} = {slot} WHERE id = {key}", (value,))
    query(
        target_url,
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP SCHEMA IF EXISTS migration CASCADE",
    )
    plans, moves = planned(source, target_url, folder), moved(source, target_url)
    for name in NAMES:
        assert plans[name].rejected_rows == moves[name].quarantined_rows
        reasons = found_by(moves[name], Quarantined)
        assert _counted(plans[name].rejections) == _counted(reasons)


def test_a_row_that_is_rejected_loses_nothing(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.add("learning_content", {"id": 9, "title": "x" * 201, "tags": '{"a": 1, "a": 2}'})
    source.add("content_fragments", {"id": 9, "learning_content_id": 9, "created_at": _LOSSY_DATE})
    source.add("rankings", {"id": 9, "fragment_id": 77, "rank_score": 3.14159})
    plans = planned(source, target_url, tmp_path)
    moves = moved(source, target_url)
    assert {name: plan.lossy for name, plan in plans.items()} == dict.fromkeys(NAMES, ())
    for name in NAMES:
        _agrees(plans[name], moves[name])


_LOSSY_DATE = "2025-08-06 03:07:13.1234567"


@pytest.mark.parametrize("broken", ["title", "tags"])
def test_a_row_that_is_rejected_and_lossy_gets_every_reason(
    source: SourceFile, target_url: str, tmp_path: Path, broken: str
) -> None:
    wrong = {"title": "x" * 201, "tags": "{bad"}
    row = {"id": 1, broken: wrong[broken], "created_at": _LOSSY_DATE}
    source.add("learning_content", row, {"id": 2})
    policies = Policies(lossy_conversions="quarantine")
    plan = planned(source, target_url, tmp_path, tables=TABLES[:1], policies=policies)
    move = moved(source, target_url, tables=TABLES[:1], policies=policies)
    _agrees(plan["learning_content"], move["learning_content"])
    reasons = found_by(move["learning_content"], Quarantined)
    assert {reason.column for reason in reasons} == {broken, "created_at"}


@pytest.mark.parametrize("text", ["0001-01-01 00:00+07:00", "2025-03-30 02:30:00"])
def test_an_orphan_that_cannot_be_converted_gets_every_reason(
    source: SourceFile, target_url: str, tmp_path: Path, text: str
) -> None:
    source.add_family(contents=1)
    source.add("content_fragments", {"id": 9, "learning_content_id": 99, "created_at": text})
    berlin = Policies(naive_zone="Europe/Berlin")
    plans = planned(source, target_url, tmp_path, policies=berlin)
    moves = moved(source, target_url, policies=berlin)
    _agrees(plans["content_fragments"], moves["content_fragments"])
    reasons = found_by(moves["content_fragments"], Quarantined)
    assert {reason.column for reason in reasons} == {"learning_content_id", "created_at"}


def test_a_value_for_null_that_breaks_a_check_is_foreseen(tmp_path: Path, target_url: str) -> None:
    ddl = CONTENT_DDL.replace("asset_type VARCHAR(20) NOT NULL", "asset_type VARCHAR(20)")
    source = SourceFile.make(tmp_path / "source.db", ddl)
    source.add_family(contents=1)
    source.run("UPDATE fragment_assets SET asset_type = NULL WHERE id = 2")
    policies = Policies(forbidden_nulls={"fragment_assets.asset_type": "document"})
    plans = planned(source, target_url, tmp_path, policies=policies)
    moves = moved(source, target_url, policies=policies)
    assert moves["fragment_assets"].quarantined_rows == 1
    assert plans["fragment_assets"].rejected_rows == 1


# A plan does nothing, and takes no more than it needs.


def _everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    found = {
        "schemas": query(
            url, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_t' ORDER BY 1"
        ),
        "classes": query(url, "SELECT oid, relname, relnatts FROM pg_class ORDER BY 1"),
        "indexes": query(url, "SELECT indexdef FROM pg_indexes ORDER BY 1"),
        "constraints": query(url, "SELECT oid, conname FROM pg_constraint ORDER BY 1"),
        "next": query(url, "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"),
        "settings": query(url, "SELECT * FROM pg_db_role_setting"),
    }
    for (name,) in query(
        url, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid > 16384"
    ):
        found[name] = query(url, f"SELECT t.*::text FROM {name} AS t ORDER BY 1")
    return found


@pytest.mark.parametrize("already", [False, True], ids=["a new target", "a target with rows"])
def test_a_plan_writes_nothing(
    crafted: SourceFile, target_url: str, tmp_path: Path, already: bool
) -> None:
    if already:
        moved(crafted, target_url, policies=_DEFAULTS)
        crafted.run("UPDATE rankings SET rank_score = 1")
    before, bytes_before = _everything(target_url), crafted.path.read_bytes()
    planned(crafted, target_url, tmp_path, policies=_DEFAULTS)
    assert _everything(target_url) == before
    assert (
        ("migration",) in before["schemas"] if already else ("migration",) not in before["schemas"]
    )
    assert crafted.path.read_bytes() == bytes_before


def test_a_plan_holds_no_more_than_a_batch(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1})
    source.add("content_fragments", {"id": 1})
    source.run(
        "INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data) WITH RECURSIVE"
        " n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)"
        " SELECT i, 1, 'document', randomblob(1000000) FROM n"
    )
    tracemalloc.start()
    try:
        plan = planned(source, target_url, tmp_path)["fragment_assets"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.rejected_rows == 40
    assert peak < 20 * 2**20


def test_a_source_that_lacks_a_required_column_is_one_sentence(
    tmp_path: Path, target_url: str
) -> None:
    ddl = CONTENT_DDL.replace("title VARCHAR(200) NOT NULL,", "")
    source = SourceFile.make(tmp_path / "old.db", ddl)
    with pytest.raises(SourceError, match="learning_content of the source has no column title"):
        planned(source, target_url, tmp_path)


# The command.


def test_the_command_prints_the_plan_as_json(
    crafted: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    query(target_url, "CREATE TABLE rankings (id text PRIMARY KEY)")
    expected = [
        asdict(plan) for plan in planned(crafted, target_url, tmp_path, policies=_DEFAULTS).values()
    ]
    given = usable(crafted, target_url, tmp_path) | {"POLICY_MISSING_COLUMNS": "default"}
    ran = command(monkeypatch, capfd, "plan", "--json", **given)
    assert (ran.code, ran.err) == (0, "")
    printed = json.loads(ran.out)
    assert all(plan["seconds"] > 0 for plan in printed)
    nothing = {"tables": 0, "indexes": 0, "wal": 0}
    assert [plan | {"seconds": 0, "disk_need": nothing} for plan in printed] == json.loads(
        json.dumps(expected)
    )
    assert query(target_url, "SELECT count(*) FROM rankings") == [(0,)]
    made = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'migration'"
    assert query(target_url, made) == [("checks",)]


def test_a_plan_is_printed_as_tables(
    crafted: SourceFile, target_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query(target_url, "CREATE TABLE rankings (id text PRIMARY KEY)")
    plans = planned(crafted, target_url, tmp_path, policies=_DEFAULTS)
    grids.show_plan(Console(width=160), list(plans.values()))
    ran = Ran(0, capsys.readouterr().out, "")
    assert ran.row("learning_content")[:5] == ["7", "1.6 KiB", "2", "2", "no table"]
    assert ran.row("rankings")[:5] == ["13", "1.5 KiB", "3", "2", "0"]
    in_the_way = ran.out.partition("Obstacles")[2].partition("Would be rejected")[0]
    assert "id is text instead of integer" in " ".join(in_the_way.split())
    assert ran.row("learning_content", "1", "title is longer than 200 characters") == ["3"]
    assert ran.row("rankings", "rank_score", "2") == ["11: 3.14159 to 3.14; 13: 2.675 to 2.68"]
    assert ran.row("content_fragments", "ipa", "missing") == ["the source lacks it"]
    assert ran.row("learning_content", "created_at", "YYYY-MM-DDTHH:MM+HH:MM") == ["1"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [("sqlite:////no/a.db", "There is no source at /no/a.db"), ("a.db", "SQLITE_DATABASE_URL")],
)
def test_without_a_source_the_command_says_so_in_a_sentence(
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    wrong: str,
    named: str,
) -> None:
    without = usable(source, target_url, tmp_path) | {"SQLITE_DATABASE_URL": wrong}
    ran = command(monkeypatch, capfd, "plan", "--json", **without)
    assert (ran.code, ran.out) == (2, "")
    (sentence,) = ran.err.splitlines()
    assert named in sentence


def test_a_source_that_cannot_be_planned_exits_with_one(
    tmp_path: Path,
    target_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = SourceFile.make(tmp_path / "other.db", "CREATE TABLE other (id INTEGER PRIMARY KEY);")
    ran = command(monkeypatch, capfd, "plan", **usable(source, target_url, tmp_path))
    assert ran.code == 1
    assert ran.err.startswith(f"The source {source.path} has no table learning_content.")
    assert "Traceback" not in ran.out + ran.err
