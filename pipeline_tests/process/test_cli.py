"""The command `pipeline migrate`: what it prints, what it records and how it exits.

It is run as a user runs it: a process of its own, settings in the environment, no terminal.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.proof import MOVE_CHECKS
from pipeline.migrations import content
from pipeline.migrations.content_sample import make_sample
from pipeline.orchestration.common.report import TableReport
from pipeline.postgres.session import TRIGGER_REMEDY
from pipeline_tests.support.commands import LINE_BREAKS_ONLY, Ran, installed, pipeline, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import CHANGE_ON_INSERT, new_database, query


@dataclass(frozen=True)
class Moved:
    """The sample, moved twice."""

    url: str
    first: Ran
    second: Ran


@pytest.fixture(scope="module")
def moved(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """The sample, moved twice by the command into a database of its own."""
    folder = tmp_path_factory.mktemp("moved")
    make_sample(folder / "sample.db")
    with new_database(server, "moved") as made:
        settings = usable(SourceFile(folder / "sample.db"), libpq(made), folder)
        first = installed("migrate", "--verbose", **settings)
        second = pipeline("migrate", "--verbose", **settings)
        yield Moved(libpq(made), first, second)


def test_the_sample_moves_and_the_command_exits_with_zero(moved: Moved) -> None:
    assert (moved.first.code, moved.first.err) == (0, "")
    assert "proven in" in moved.first.out


def test_what_moved_is_printed_per_table(moved: Moved) -> None:
    shown = {table: moved.first.row(table, "filled")[:6] for table in NAMES}
    assert shown == {
        "learning_content": ["64", "60", "60", "0", "0", "4"],
        "content_fragments": ["298", "292", "292", "0", "0", "6"],
        "fragment_assets": ["195", "192", "192", "0", "0", "3"],
        "rankings": ["501", "496", "496", "0", "0", "5"],
    }


def test_every_quarantine_reason_is_printed_with_an_example(moved: Moved) -> None:
    row = moved.first.row
    assert row("learning_content", "1", "title is longer than 200 characters") == ["9001"]
    assert row("learning_content", "1", "tags is not valid JSON") == ["9002"]
    assert row("content_fragments", "1", "created_at is not a date") == ["9005"]
    assert row("content_fragments", "1", "body_text holds a NUL character") == ["9004"]
    assert row("fragment_assets", "1", "asset_data is NULL") == ["9002"]
    assert row("rankings", "1", "assessed_by is NULL") == ["9004"]


def test_every_check_of_every_table_is_printed(moved: Moved) -> None:
    results = {
        (table, check): moved.first.row(table, check)[0] for table in NAMES for check in MOVE_CHECKS
    }
    warnings = {key for key, result in results.items() if result == "warning"}
    assert {key for key, result in results.items() if result != "passed"} == warnings
    assert warnings == {
        ("learning_content", "drift"),
        *((table, "quarantine") for table in NAMES),
        ("rankings", "conversions"),
    }


def test_running_again_changes_nothing(moved: Moved) -> None:
    assert (moved.second.code, moved.second.err) == (0, "")
    shown = {table: moved.second.row(table, "unchanged")[2:6] for table in NAMES}
    assert shown == {
        "learning_content": ["0", "0", "0", "4"],
        "content_fragments": ["0", "0", "0", "6"],
        "fragment_assets": ["0", "0", "0", "3"],
        "rankings": ["0", "0", "0", "5"],
    }


def test_both_runs_are_recorded_in_dagsters_schema_of_the_target(moved: Moved) -> None:
    runs = query(moved.url, "SELECT pipeline_name, status, run_id FROM dagster.runs ORDER BY id")
    printed = [re.findall(r", run (\S+)", ran.out)[0] for ran in (moved.first, moved.second)]
    assert runs == [("migrate", "SUCCESS", run_id) for run_id in printed]


def test_materializations_and_check_evaluations_are_stored(moved: Moved) -> None:
    stored = query(
        moved.url,
        "SELECT asset_key, count(*) FROM dagster.event_logs"
        " WHERE dagster_event_type = 'ASSET_MATERIALIZATION' GROUP BY 1",
    )
    assert dict(stored) == {f'["{table}"]': 2 for table in NAMES}
    checks = query(
        moved.url,
        "SELECT asset_key, count(*), count(DISTINCT check_name), count(evaluation_event)"
        " FROM dagster.asset_check_executions GROUP BY 1",
    )
    assert {key: counts for key, *counts in checks} == {
        f'["{table}"]': [22, 11, 22] for table in NAMES
    }


def test_stdout_without_a_terminal_has_no_control_characters(moved: Moved) -> None:
    for ran in (moved.first, moved.second):
        assert LINE_BREAKS_ONLY.fullmatch(ran.out)


UNUSABLE = {
    "a target of another kind": ({"DATABASE_URL": "mysql://user@host/db"}, "DATABASE_URL"),
    "a target where no server is": ({"DATABASE_URL": "postgresql://u@127.0.0.1:1/db"}, "127.0.0.1"),
    "a source that is no URL": ({"SQLITE_DATABASE_URL": "anki.db"}, "SQLITE_DATABASE_URL"),
    "a source that is not there": ({"SQLITE_DATABASE_URL": "sqlite:////no/a.db"}, "/no/a.db"),
    "a share in words": ({"MAX_DELETE_SHARE": "abc"}, "MAX_DELETE_SHARE"),
}


@pytest.mark.parametrize(("wrong", "named"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_named_in_one_sentence(
    wrong: dict[str, str], named: str, source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    ran = pipeline("migrate", **usable(source, target_url, tmp_path) | wrong)
    assert ran.code == 2
    (sentence,) = ran.err.splitlines()
    assert named in sentence
    assert "Traceback" not in ran.out + ran.err


@pytest.mark.dagster
def test_a_failed_proof_names_check_and_offender_and_stops_the_children(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    engine = sa.create_engine(target_url.replace("postgresql:", "postgresql+psycopg2:", 1))
    content.metadata.create_all(engine)
    engine.dispose()
    query(target_url, CHANGE_ON_INSERT)
    constraints = (
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1"
    )
    before = sorted(query(target_url, constraints))
    ran = pipeline("migrate", "--verbose", **usable(source, target_url, tmp_path))
    assert ran.code == 1
    assert ran.row("content_fragments", "digests")[0] == "failed"
    assert ran.row("content_fragments", "keys")[0] == "passed"
    assert (
        "content_fragments 2, body_text: source 'I eat rice', target 'changed on the way'"
        in re.sub(r"\s*\n\s*", " ", ran.out)
    )
    rows = {table: query(target_url, f"SELECT count(*) FROM {table}")[0][0] for table in NAMES}
    assert rows == {
        "learning_content": 2,
        "content_fragments": 0,
        "fragment_assets": 0,
        "rankings": 0,
    }
    assert sorted(query(target_url, constraints)) == before
    assert query(target_url, "SELECT status FROM dagster.runs") == [("FAILURE",)]
    assert ran.err.splitlines()[:-1] == [
        "content_fragments was rolled back: the proof failed (digests, witness); trigger change of"
        " content_fragments (function change()) may have changed the written values. Inspect"
        f" the rows named in the check's result; the target is unchanged. {TRIGGER_REMEDY}.",
        "fragment_assets did not run because an earlier step failed.",
        "rankings did not run because an earlier step failed.",
    ]


@pytest.mark.dagster
def test_a_run_that_would_delete_too_much_stops_and_says_so(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    move_all(source.path, target_url)
    source.run("DELETE FROM rankings WHERE id > 4")
    settings = usable(source, target_url, tmp_path) | {"MAX_DELETE_SHARE": "0.4"}
    ran = pipeline("migrate", **settings)
    assert ran.code == 1
    sentence = ran.err.splitlines()[0]
    for said in ("rankings:", "4 of 8 rows", str(source.path), "40%", "MAX_DELETE_SHARE"):
        assert said in sentence
    assert query(target_url, "SELECT count(*) FROM rankings") == [(8,)]


@pytest.mark.parametrize(
    ("checks", "proven"),
    [
        ([], False),
        ([(True, "ERROR")], True),
        ([(True, "ERROR"), (False, "WARN")], True),
        ([(True, "ERROR"), (False, "ERROR")], False),
    ],
)
def test_a_table_is_proven_by_checks_that_passed_and_not_by_their_absence(
    checks: list[tuple[bool, str]], proven: bool
) -> None:
    made = {
        f"check {at}": dg.AssetCheckEvaluation(
            dg.AssetKey("rankings"), f"check {at}", passed, {}, severity=dg.AssetCheckSeverity(kind)
        )
        for at, (passed, kind) in enumerate(checks)
    }
    assert TableReport("rankings", checks=made).proven is proven
