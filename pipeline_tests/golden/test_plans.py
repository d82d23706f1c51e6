"""Plan and doctor foresee what the move does; a table of which hardly anything arrives stops it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import load
from pipeline.core.errors import SourceError, TooManyRejected
from pipeline.core.policies import Policies
from pipeline.doctor.examination import examine
from pipeline.migrations import registry
from pipeline.migrations.content import metadata
from pipeline.move.context.options import QUARANTINE_SHARE
from pipeline.move.reading import recognition
from pipeline.move.run.scope import Subset
from pipeline.sqlite import tracking
from pipeline_tests.support.moments import add_moment, with_moments
from pipeline_tests.support.moves import move_all, move_in, sync_all
from pipeline_tests.support.plans import planned
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables[:1]
LIMITED = {"quarantine_share": QUARANTINE_SHARE}


def _rejected(path: Path, *, good: int, bad: int) -> SourceFile:
    """A source with rows that move, and rows with a number for a date."""
    source = with_moments(path, "INTEGER")
    for key in range(good):
        add_moment(source, key + 1, None)
    for key in range(bad):
        add_moment(source, key + 1001, 1705311000000 + key)
    return source


def _in_target(url: str) -> int:
    ((exists,),) = query(url, "SELECT to_regclass('learning_content') IS NOT NULL")
    return query(url, "SELECT count(*) FROM learning_content")[0][0] if exists else -1


@pytest.mark.parametrize(
    ("good", "bad", "stops"),
    [(15, 5, False), (14, 6, True), (0, 20, True), (0, 19, True), (75, 25, False), (74, 26, True)],
)
def test_a_move_of_which_hardly_anything_would_arrive_stops_and_plan_foresees_it(
    good: int, bad: int, stops: bool, target_url: str, tmp_path: Path
) -> None:
    source = _rejected(tmp_path, good=good, bad=bad)
    plan = planned(source, target_url, tmp_path, tables=TABLES)["learning_content"]
    assert (plan.rows, plan.rejected_rows, plan.obstacle is not None) == (good + bad, bad, stops)
    if not stops:
        moved = move_all(source.path, target_url, tables=TABLES, **LIMITED)["learning_content"]
        assert (moved.moved_rows, moved.quarantined_rows) == (good, bad)
        return
    with pytest.raises(TooManyRejected) as error:
        move_all(source.path, target_url, tables=TABLES, **LIMITED)
    share = f"{bad} of {good + bad} rows ({bad / (good + bad):.1%})"
    assert f"learning_content: {share} would be in quarantine" in str(error.value)
    assert 'set POLICY_FORMS={"learning_content.created_at": "milliseconds"}' in str(error.value)
    assert _in_target(target_url) == -1
    move_all(source.path, target_url, tables=TABLES, quarantine_share=1)
    assert _in_target(target_url) == good


@pytest.mark.parametrize("tracked", [False, True])
def test_a_sync_counts_the_whole_table(tracked: bool, target_url: str, tmp_path: Path) -> None:
    source = _rejected(tmp_path, good=100, bad=0)
    if tracked:
        tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url, tables=TABLES)
    for key in range(20):
        add_moment(source, 2000 + key, 1705311000)
    synced = sync_all(source.path, target_url, tables=TABLES, **LIMITED)
    assert synced["learning_content"].quarantined_rows
    for key in range(20):
        add_moment(source, 3000 + key, 1705311000)
    with pytest.raises(TooManyRejected, match=r"40 of 140 rows \(28.6%\)"):
        sync_all(source.path, target_url, tables=TABLES, **LIMITED)
    assert query(target_url, "SELECT count(*) FROM migration.quarantine") == [(20,)]


def test_a_subset_counts_the_whole_table(target_url: str, tmp_path: Path) -> None:
    source = _rejected(tmp_path, good=90, bad=10)
    keys = tuple(range(1001, 1011))
    scope = Subset(keys=keys)
    moved = move_in(scope, source.path, target_url, tables=TABLES, **LIMITED)["learning_content"]
    assert (moved.moved_rows, moved.quarantined_rows) == (0, 10)


FORMS: list[tuple[str, str, list[Any], str | None]] = [
    ("created_at", "INTEGER", [1705311000, 1705311001], "seconds"),
    ("created_at", "INTEGER", [1705311000123], "milliseconds"),
    ("created_at", "INTEGER", [1705311000123456], "microseconds"),
    ("created_at", "TEXT", ["1705311000"], "seconds"),
    ("created_at", "REAL", [2460324.5], "julian_days"),
    ("created_at", "INTEGER", [*range(1705311000, 1705311020), 253402300799], "seconds"),
    ("created_at", "INTEGER", [*range(1705311000, 1705311020), 0, -1], "seconds"),
    ("created_at", "INTEGER", [1705311000, 7], None),
    ("created_at", "INTEGER", [1705311000, 1705311000000], None),
    ("created_at", "INTEGER", [1705311000, "soon"], None),
    ("created_at", "TEXT", ["2025-01-01"], None),
]


@pytest.mark.parametrize(("column", "declared", "values", "form"), FORMS)
def test_plan_recognizes_a_form_and_the_move_reads_it(
    column: str, declared: str, values: list[Any], form: str | None, target_url: str, tmp_path: Path
) -> None:
    source = with_moments(tmp_path, declared)
    for key, value in enumerate(values, 1):
        add_moment(source, key, value)
    plan = planned(source, target_url, tmp_path, tables=TABLES)["learning_content"]
    assert [(each.column, each.form) for each in plan.proposals] == (
        [(column, form)] if form else []
    )
    if form:
        named = recognition.settings(plan.proposals).removeprefix("POLICY_FORMS=")
        policies = Policies(forms=json.loads(named))
        again = planned(source, target_url, tmp_path, tables=TABLES, policies=policies)
        assert again["learning_content"].rejected_rows == 0
        moved = move_all(source.path, target_url, tables=TABLES, policies=policies)
        assert moved["learning_content"].moved_rows == len(values)


def test_plan_recognizes_words_of_carried_booleans_and_decimals(
    target_url: str, tmp_path: Path
) -> None:
    schema = CONTENT_DDL.replace("rank_score FLOAT", "rank_score TEXT")
    schema = schema.replace("last_review_at DATETIME", "last_review_at DATETIME, learned BOOLEAN")
    source = SourceFile.make(tmp_path / "source.db", schema)
    source.add_family()
    source.run("UPDATE learning_content SET learned = iif(id = 1, 't', 'f')")
    source.run("UPDATE rankings SET rank_score = '4.50'")
    policies = Policies(forms={"learning_content.created_at": "seconds"})
    with pytest.raises(TooManyRejected) as error:
        move_all(source.path, target_url, policies=policies, **LIMITED)
    # A setting that replaces the one before must not lose what was declared there.
    kept = '{"learning_content.created_at": "seconds", "rankings.rank_score": "decimal_text"}'
    assert f"POLICY_FORMS={kept}" in str(error.value)
    plans = planned(source, target_url, tmp_path)
    found = [each for plan in plans.values() for each in plan.proposals]
    assert [(each.column, each.form) for each in found] == [
        *(("learned", "t/f"), ("rank_score", "decimal_text"))
    ]
    assert plans["rankings"].obstacle is not None
    named = recognition.settings(found).removeprefix("POLICY_FORMS=")
    moved = move_all(source.path, target_url, policies=Policies(forms=json.loads(named)))
    assert [each.quarantined_rows for each in moved.values()] == [0, 0, 0, 0]
    sql = "SELECT array_agg(learned ORDER BY id) FROM learning_content"
    assert query(target_url, sql) == [([True, False, False],)]


def test_numbers_of_another_unit_and_of_no_known_form_are_named(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_moments(tmp_path, "INTEGER")
    for key, value in enumerate((1705311000, 1705311000123), 1):
        add_moment(source, key, value)
    policies = Policies(forms={"learning_content.created_at": "milliseconds"})
    plan = planned(source, target_url, tmp_path, tables=TABLES, policies=policies)
    assert [each.sentence for each in plan["learning_content"].drift] == [
        "learning_content.created_at: another unit, 1 values look like seconds, not milliseconds:"
        " 1705311000 is read as 1970-01-20 17:41:51 UTC"
    ]
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite:///{source.path}")
    monkeypatch.setenv("DATABASE_URL", target_url)
    found = {each.name: each for each in _doctor()}["forms"]
    assert (found.state, found.detail) == (
        "warning",
        "learning_content.created_at: unreadable, 2 values such as 1705311000 have no known form",
    )


def test_doctor_names_missing_columns_forms_and_tables_that_stay(
    source: SourceFile, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family()
    source.run("UPDATE learning_content SET created_at = 1705311000")
    for sql in (
        "CREATE TABLE two_factor (id TEXT PRIMARY KEY, secret TEXT)",
        "INSERT INTO two_factor VALUES ('a', 'b')",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
        "CREATE TABLE anki_cards (id INTEGER)",
    ):
        source.run(sql)
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite:///{source.path}")
    monkeypatch.setenv("DATABASE_URL", target_url)
    found = {each.name: each for each in _doctor()}
    assert found["columns"].state == "warning"
    assert found["forms"].detail.startswith("learning_content.created_at: 3 values can be read as")
    named = 'POLICY_FORMS={"learning_content.created_at": "seconds"}'
    assert named in str(found["forms"].remedy)
    assert found["other tables"].detail == "not declared: two_factor (1 row), words (virtual)"
    source.run("ALTER TABLE rankings DROP COLUMN assessment_notes")
    found = {each.name: each for each in _doctor()}
    assert found["columns"].state == "error"
    assert "Table rankings of the source has no column assessment_notes" in found["columns"].detail
    with pytest.raises(SourceError, match="no column assessment_notes"):
        move_all(source.path, target_url)


def _doctor() -> list[Any]:
    settings = load()
    return [d for d in examine(settings, registry.find().of(TABLES)) if d.place == "source"]


def test_an_escape_that_jsonb_cannot_store_is_foreseen(target_url: str, tmp_path: Path) -> None:
    source = SourceFile.make(tmp_path / "json.db", CONTENT_DDL)
    for key, text in enumerate((r'"a\u0000"', r'"a\\u0000"', r'"\\\u0000"', '{"a": 1}'), 1):
        source.add("learning_content", {"id": key, "tags": text})
    plan = planned(source, target_url, tmp_path, tables=TABLES)["learning_content"]
    moved = move_all(source.path, target_url, tables=TABLES)["learning_content"]
    reasons = [(each.column, each.reason, each.examples) for each in plan.rejections]
    why = r"has the escape \u0000, which jsonb cannot store"
    assert reasons == [("tags", why, ("1", "3"))]
    assert moved.quarantined_rows == plan.rejected_rows == 2
    sql = "SELECT DISTINCT reasons -> 0 ->> 'message' FROM migration.quarantine"
    assert query(target_url, sql) == [(why,)]
