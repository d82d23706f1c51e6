"""The job and the commands that let the target follow the source: `sync`, and `track`.

Commands are run as a user runs them: a process of its own, settings in the environment. The job is
run in this process, recorded in Dagster's schema of a real target.
"""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator

from pipeline.core.proof import MOVE_CHECKS
from pipeline.migrations import content
from pipeline.orchestration import runs
from pipeline.orchestration.common.retries import RETRIES
from pipeline.orchestration.common.run_options import run_config
from pipeline.sqlite import tracking
from pipeline_tests.support.commands import LINE_BREAKS_ONLY, pipeline, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.runs import shown, use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import query

pytestmark = pytest.mark.dagster

SETTLED = 1.1
"""Seconds after which the file's time tells that it has not been written since."""
FIRST, LATER = "2026-01-01 00:00:00", "2026-01-01 00:10:00"
FIGURES = (
    *("strategy", "source_rows", "moved", "written", "deleted", "cascaded", "quarantined"),
    "dagster/row_count",
)


@pytest.fixture
def instance(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's own instance in the target; settings name the test's source and target."""
    use(monkeypatch, usable(source, target_url, tmp_path))
    with runs.instance() as opened:
        yield opened


def figures(result: dg.ExecuteInProcessResult) -> dict[str, list[Any]]:
    """What the materialization of each table tells, in the order of FIGURES."""
    return {
        table: [shown(result, table)[name] for name in FIGURES]
        for table in NAMES
        if result.asset_materializations_for_node(table)
    }


def checked(result: dg.ExecuteInProcessResult) -> dict[str, list[str]]:
    """The checks that a run reports, by table; each one has passed."""
    found: dict[str, list[str]] = {}
    for check in result.get_asset_check_evaluations():
        assert check.passed or check.check_name in ("drift", "quarantine"), check
        if check.check_name == "search_indexes":
            continue
        found.setdefault(check.asset_key.to_user_string(), []).append(check.check_name)
    return {table: sorted(names) for table, names in found.items()}


ALL_CHECKS = {table: sorted(MOVE_CHECKS) for table in NAMES}


def counts(url: str) -> dict[str, int]:
    """Rows of each table of the target."""
    return {table: query(url, f"SELECT count(*) FROM {table}")[0][0] for table in NAMES}


def track(source: SourceFile, on: bool) -> None:
    """Let the source note its changes, or not."""
    if on:
        tracking.switch_on(source.path, content.metadata.sorted_tables)


def test_the_first_sync_fills_and_the_second_looks_at_nothing(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    time.sleep(SETTLED)
    first = runs.run("sync", opened=instance)
    assert first.success
    assert figures(first) == {
        "learning_content": ["filled", 2, 2, 2, 0, 0, 0, 2],
        "content_fragments": ["filled", 4, 4, 4, 0, 0, 0, 4],
        "fragment_assets": ["filled", 4, 4, 4, 0, 0, 0, 4],
        "rankings": ["filled", 8, 8, 8, 0, 0, 0, 8],
    }
    second = runs.run("sync", opened=instance)
    assert second.success
    assert figures(second) == {
        "learning_content": ["synced", 0, 0, 0, 0, 0, 0, 2],
        "content_fragments": ["synced", 0, 0, 0, 0, 0, 0, 4],
        "fragment_assets": ["synced", 0, 0, 0, 0, 0, 0, 4],
        "rankings": ["synced", 0, 0, 0, 0, 0, 0, 8],
    }
    assert checked(first) == checked(second) == ALL_CHECKS
    (kept,) = second.asset_materializations_for_node("housekeeping")
    assert kept.metadata["runs"].value == 2


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "not tracked"])
def test_inserts_updates_and_deletes_are_counted_right_and_the_newest_change_is_told(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str, tracked: bool
) -> None:
    source.add_family(contents=5)
    source.run("UPDATE learning_content SET updated_at = ?", [FIRST])
    track(source, tracked)
    first = runs.run("sync", opened=instance)
    assert first.success
    source.add("learning_content", {"id": 6, "updated_at": LATER})
    source.run("UPDATE learning_content SET title = 'b', updated_at = ? WHERE id = 1", [LATER])
    source.run("DELETE FROM rankings WHERE fragment_id = 10")
    source.run("DELETE FROM fragment_assets WHERE fragment_id = 10")
    source.run("DELETE FROM content_fragments WHERE id = 10")
    result = runs.run("sync", opened=instance)
    assert result.success
    told = figures(result)
    assert {table: (row[0], *row[3:]) for table, row in told.items()} == {
        "learning_content": ("synced", 2, 0, 0, 0, 6),
        "content_fragments": ("synced", 0, 1, 0, 0, 9),
        "fragment_assets": ("synced", 0, 0, 1, 0, 9),
        "rankings": ("synced", 0, 0, 2, 0, 18),
    }
    assert counts(target_url) == {table: row[-1] for table, row in told.items()}
    assert checked(result) == ALL_CHECKS
    assert query(target_url, "SELECT title FROM learning_content WHERE id = 1") == [("b",)]
    again = runs.run("sync", opened=instance)
    assert {table: row[3:] for table, row in figures(again).items()} == {
        table: [0, 0, 0, 0, rows] for table, rows in counts(target_url).items()
    }
    one, two, three = (shown(each, "learning_content") for each in (first, result, again))
    ten = timedelta(minutes=10).total_seconds()
    assert two["newest_source_change"] - one["newest_source_change"] == ten
    assert three["newest_source_change"] == two["newest_source_change"]
    assert "lag_seconds" not in one
    assert (two["lag_seconds"], three["lag_seconds"]) == (ten, 0)


def test_a_table_without_any_date_tells_no_newest_change(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    source.add("learning_content", {"id": 1, "updated_at": None})
    told = shown(runs.run("sync", opened=instance), "learning_content")
    assert {"newest_source_change", "lag_seconds"} & set(told) == set()


def test_a_change_without_a_date_is_found_when_every_value_is_looked_at(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET title = 'b'")
    changes = runs.run("sync", opened=instance)
    assert shown(changes, "learning_content")["strategy"] == "synced"
    assert query(target_url, "SELECT title FROM learning_content") == [("word 1",)]
    whole = runs.run("sync", opened=instance, config=run_config())
    assert [row[0] for row in figures(whole).values()] == ["merged", *["unchanged"] * 3]
    assert query(target_url, "SELECT title FROM learning_content") == [("b",)]


def test_a_run_that_is_launched_without_any_configuration_looks_only_at_changes(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str
) -> None:
    """Schedule and sensor launch it so."""
    source.add_family(contents=1)
    move_all(source.path, target_url)
    job = runs.defs.resolve_job_def("sync")
    made = instance.create_run_for_job(job_def=job, run_config={})
    events = list(execute_run_iterator(InMemoryJob(job), made, instance))
    ways = [
        event.step_materialization_data.materialization.metadata["strategy"].value
        for event in events
        if event.is_step_materialization
        and "strategy" in event.step_materialization_data.materialization.metadata
    ]
    assert ways == ["synced"] * 4


def test_migrate_looks_at_every_value_whether_or_not_sync_ran_before(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    source.add_family(contents=1)
    first = runs.run("sync", opened=instance)
    source.run("UPDATE learning_content SET title = 'b'")
    second = runs.run("migrate", opened=instance)
    third = runs.run("sync", opened=instance)
    assert [[row[0] for row in figures(each).values()] for each in (first, second, third)] == [
        ["filled"] * 4,
        ["merged", *["unchanged"] * 3],
        ["synced"] * 4,
    ]
    assert second.asset_materializations_for_node("learning_content")
    nodes = {node.name for node in second.job_def.nodes_in_topological_order}
    assert nodes == set(NAMES)


NOT_TODAY = """
CREATE SEQUENCE attempts;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('attempts') <= {times} THEN {what}; END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER refuse AFTER INSERT ON content_fragments
FOR EACH STATEMENT EXECUTE FUNCTION refuse();
"""
"""The target refuses to write content_fragments; a sequence counts how often that was tried."""
CUT = "PERFORM pg_terminate_backend(pg_backend_pid())"
REFUSE = "RAISE 'not today' USING ERRCODE = '42501'"


def attempts(url: str) -> int:
    """How often content_fragments was written to."""
    return int(query(url, "SELECT last_value FROM attempts")[0][0])


def test_a_table_that_fails_leaves_later_ones_as_they_are(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    options = usable(source, target_url, tmp_path)
    move_all(source.path, target_url)
    query(target_url, NOT_TODAY.format(times=99, what=REFUSE))
    source.add("learning_content", {"id": 9})
    source.add("content_fragments", {"id": 9})
    source.add("fragment_assets", {"id": 9})
    source.add("rankings", {"id": 9})
    ran = pipeline("sync", **options)
    assert ran.code == 1
    assert ran.row("learning_content", "synced")[1:3] == ["3", "1"]
    first, *rest = ran.err.splitlines()
    assert "trigger refuse of content_fragments (function refuse())" in first
    assert "not today" in first
    assert rest[:-1] == [
        "content_search did not run because an earlier step failed.",
        "fragment_assets did not run because an earlier step failed.",
        "rankings did not run because an earlier step failed.",
    ]
    assert rest[-1].startswith("failed, run ")
    assert counts(target_url) == {
        "learning_content": 3,
        "content_fragments": 4,
        "fragment_assets": 4,
        "rankings": 8,
    }
    assert attempts(target_url) == 1
    query(target_url, "DROP TRIGGER refuse ON content_fragments")
    assert pipeline("sync", **options).code == 0
    assert counts(target_url) == {
        "learning_content": 3,
        "content_fragments": 5,
        "fragment_assets": 5,
        "rankings": 9,
    }


@pytest.mark.parametrize("job", ["sync", "migrate"])
def test_a_connection_that_is_cut_twice_is_made_anew_twice(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str, job: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, NOT_TODAY.format(times=2, what=CUT))
    source.add("content_fragments", {"id": 9})
    started = time.monotonic()
    result = runs.run(job, opened=instance)
    assert result.success
    assert time.monotonic() - started > 1 + 2
    restarts = [event.step_key for event in result.all_events if event.is_step_up_for_retry]
    assert restarts == ["content_fragments"] * 2
    assert attempts(target_url) == 3
    assert counts(target_url)["content_fragments"] == 3
    assert checked(result) == ALL_CHECKS


def test_a_connection_that_is_cut_again_and_again_fails_the_run_after_three_more_attempts(
    instance: dg.DagsterInstance, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, NOT_TODAY.format(times=99, what=CUT))
    source.add("content_fragments", {"id": 9})
    started = time.monotonic()
    result = runs.run("sync", opened=instance)
    assert not result.success
    assert time.monotonic() - started > 1 + 2 + 4
    assert attempts(target_url) == 1 + RETRIES == 4
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.user_failure_data is not None
    said = failure.user_failure_data.description
    assert said is not None
    assert "the connection to the server was lost" in said
    assert counts(target_url)["content_fragments"] == 2
    # Nobody is left who holds the target.
    assert query(target_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_sync_moves_what_changed_and_full_looks_at_every_value(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    time.sleep(SETTLED)
    options = usable(source, target_url, tmp_path)
    first, second = (pipeline("sync", "--verbose", **options) for _ in range(2))
    source.run("UPDATE learning_content SET title = 'b' WHERE id = 1")
    third = pipeline("sync", **options)
    full = pipeline("sync", "--full", "--verbose", **options)
    for ran in (first, second, third, full):
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.splitlines()[0] == f"source  {source.path}"
        assert "proven in" in ran.out
        assert LINE_BREAKS_ONLY.fullmatch(ran.out)
    assert {table: first.row(table, "filled")[:6] for table in NAMES} == {
        "learning_content": ["2", "2", "2", "0", "0", "0"],
        "content_fragments": ["4", "4", "4", "0", "0", "0"],
        "fragment_assets": ["4", "4", "4", "0", "0", "0"],
        "rankings": ["8", "8", "8", "0", "0", "0"],
    }
    for table in NAMES:
        # Nothing was compared; the rows of both sides are known nevertheless.
        rows = first.row(table, "filled")[:2]
        assert second.row(table, "synced")[:6] == [*rows, "0", "0", "0", "0"]
        assert {second.row(table, check)[0] for check in MOVE_CHECKS} <= {"passed", "warning"}
    assert full.row("learning_content", "merged")[:4] == ["2", "2", "1", "0"]
    assert full.row("rankings", "unchanged")[:4] == ["8", "8", "0", "0"]
    recorded = query(target_url, "SELECT pipeline_name, status FROM dagster.runs ORDER BY id")
    assert recorded == [("sync", "SUCCESS")] * 4


def test_sync_without_a_source_of_ones_own_begins_with_the_sample(
    target_url: str, tmp_path: Path
) -> None:
    options = {"DATABASE_URL": target_url, "PIPELINE_HOME": str(tmp_path / "home")}
    ran = pipeline("sync", **options)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"source  {tmp_path / 'home' / 'sample.db'}"
    assert ran.row("rankings", "filled")[:5] == ["501", "496", "496", "0", "5"]


MISSING = "There is no source at {}. Set SQLITE_DATABASE_URL to sqlite:///PATH of the SQLite file."


@pytest.mark.parametrize(
    "command",
    [("sync",), ("sync", "--full"), ("track", "on"), ("track", "off"), ("track", "status")],
)
def test_a_source_that_is_missing_is_one_sentence(
    source: SourceFile, target_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    source.path.unlink()
    ran = pipeline(*command, **usable(source, target_url, tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [MISSING.format(source.path)]
    assert not source.path.exists()


@pytest.mark.parametrize("command", ["on", "off", "status"])
def test_tracking_before_there_is_any_source_says_what_to_do(command: str, tmp_path: Path) -> None:
    ran = pipeline("track", command, PIPELINE_HOME=tmp_path / "home")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "No source is configured yet. Set SQLITE_DATABASE_URL, or run pipeline migrate."
    ]
    assert not (tmp_path / "home").exists()


def test_tracking_is_switched_on_mended_and_off_without_a_target(
    source: SourceFile, tmp_path: Path
) -> None:
    options = usable(source, "postgresql://user@127.0.0.1:1/db", tmp_path)

    def said(command: str) -> list[str]:
        ran = pipeline("track", command, **options)
        assert (ran.code, ran.err) == (0, "")
        return ran.out.splitlines()

    on = f"every change of {source.path} is tracked; the next sync compares every value once"
    assert said("status") == [f"{source.path} is not tracked"]
    assert said("on") == [on]
    source.add("learning_content", {"id": 1})
    everything = f"tracked   {', '.join(NAMES)}"
    assert said("status") == [everything, "the log has 2 entries"]
    source.run(f"DROP TRIGGER {tracking.LOG}_rankings_after_insert")
    assert said("status") == [
        f"tracked   {', '.join(NAMES[:-1])}",
        "untracked rankings; run pipeline track on",
        "the log has 2 entries",
    ]
    assert said("on") == [on]
    assert said("status") == [everything, "the log has 1 entry"]
    assert said("off") == [f"{source.path} is no longer tracked"]
    assert said("off") == [f"{source.path} was not tracked"]
    assert source.run("SELECT name FROM sqlite_master WHERE name LIKE 'pipeline%'") == []


def test_tracking_that_is_on_already_does_not_say_that_every_value_is_looked_at(
    source: SourceFile, tmp_path: Path
) -> None:
    options = usable(source, "postgresql://user@127.0.0.1:1/db", tmp_path)
    assert pipeline("track", "on", **options).code == 0
    before = source.path.read_bytes()
    again = pipeline("track", "on", **options)
    assert (again.code, again.err) == (0, "")
    assert source.path.read_bytes() == before
    assert "looks at every value" not in again.out


@pytest.mark.parametrize("command", ["on", "off", "status"])
def test_tracking_a_file_that_is_no_database_is_one_sentence(command: str, tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    path.write_text("no database at all" * 99)
    ran = pipeline("track", command, SQLITE_DATABASE_URL=f"sqlite:///{path}")
    assert (ran.code, ran.out) == (2, "")
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith(f"The source {path} is not an SQLite database")


def test_a_source_that_lacks_a_table_cannot_be_tracked_and_stays_as_it_is(
    source: SourceFile, tmp_path: Path
) -> None:
    source.run("DROP TABLE rankings")
    before = source.path.read_bytes()
    ran = pipeline("track", "on", **usable(source, "postgresql://user@127.0.0.1:1/db", tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        f"The source {source.path} has no table rankings. Check that SQLITE_DATABASE_URL names the"
        " application's database."
    ]
    assert source.path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever may do everything can write any file")
def test_a_source_that_is_read_only_cannot_be_tracked(source: SourceFile, tmp_path: Path) -> None:
    source.path.chmod(0o444)
    ran = pipeline("track", "on", **usable(source, "postgresql://user@127.0.0.1:1/db", tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        f"The source {source.path} cannot be written, which tracking requires. Give this user"
        " write permission."
    ]


def test_a_sync_after_tracking_was_switched_on_or_off_looks_at_every_value_once(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    options = usable(source, target_url, tmp_path)
    assert pipeline("sync", **options).code == 0
    for switch in ("on", "off"):
        assert pipeline("track", switch, **options).code == 0
        whole, changes = (pipeline("sync", "--verbose", **options) for _ in range(2))
        assert (whole.code, changes.code) == (0, 0)
        assert whole.row("rankings", "unchanged")[:3] == ["4", "4", "0"]
        assert changes.row("rankings", "synced")[2:4] == ["0", "0"] if switch == "on" else True
