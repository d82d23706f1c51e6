"""The job `verify`, its schedule and its command."""

import itertools
from contextlib import closing
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from pipeline.core.place import PUBLIC
from pipeline.core.proof import BLOCKING
from pipeline.move.proof.verification import NAMES
from pipeline.move.reading import surveys
from pipeline_tests.support.commands import command, pipeline, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import TABLES, Moved


@pytest.fixture
def settings(moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of this process that name what was moved."""
    named = usable(moved.file, moved.url, tmp_path)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    return named


def verify_job(*selected: tuple[str, str]) -> dg.ExecuteInProcessResult:
    """Run the job, or only these checks of it, in this process."""
    from pipeline.orchestration.definitions import defs

    job = defs.resolve_job_def("verify")
    if selected:
        chosen = {dg.AssetCheckKey(dg.AssetKey(t), name) for t, name in selected}
        job = job.get_subset(asset_check_selection=chosen)
    return job.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)


@pytest.mark.usefixtures("settings")
def test_the_job_evaluates_every_standing_check_of_every_table() -> None:
    result = verify_job()
    assert result.success
    made = {
        (c.asset_key.to_user_string(), c.check_name): c
        for c in result.get_asset_check_evaluations()
    }
    assert set(made) == {(table.name, name) for table in TABLES for name in NAMES}
    errors = {key for key, c in made.items() if c.severity == dg.AssetCheckSeverity.ERROR}
    assert errors == {(table.name, name) for table in TABLES for name in (*BLOCKING, "schema")}
    assert {key for key, c in made.items() if not c.passed} == {
        ("learning_content", "drift"),
        ("learning_content", "quarantine"),
        ("rankings", "quarantine"),
        ("rankings", "conversions"),
    }


@pytest.mark.usefixtures("settings")
def test_the_job_makes_a_single_check_alone_of_the_sample_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surveys, "BATCH_BYTES", 1)
    monkeypatch.setenv("VERIFY_MIB", "0.0003")
    monkeypatch.setenv("VERIFY_SEED", "7")
    result = verify_job(("rankings", "digests"))
    assert result.success
    (made,) = result.get_asset_check_evaluations()
    assert (made.asset_key, made.check_name) == (dg.AssetKey("rankings"), "digests")
    figures = {name: value.value for name, value in made.metadata.items()}
    assert (figures["seed"], figures["of_rows"]) == (7, 14)
    assert 2 <= figures["sampled_rows"] <= 4


@pytest.mark.usefixtures("settings")
def test_the_job_does_not_run_while_another_run_holds_the_target(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCK_SECONDS", "0")
    with closing(psycopg2.connect(moved.url)) as other:
        other.cursor().execute(f"SELECT pg_advisory_lock({PUBLIC.lock_key})")
        result = verify_job(("rankings", "schema"))
    assert not result.success
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    said = failure.user_failure_data.description
    assert "is in use by another run" in said
    assert "Wait until that run ends, then run again." in said
    assert result.get_asset_check_evaluations() == []


def test_the_schedule_is_there_and_off() -> None:
    from pipeline.orchestration.definitions import defs

    (schedule,) = [
        each
        for each in defs.schedules or ()
        if isinstance(each, dg.ScheduleDefinition) and each.job_name == "verify"
    ]
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "UTC")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_the_command_exits_with_zero_when_all_is_sound_and_one_on_a_fault(
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    named = usable(source, target_url, tmp_path)
    ran = command(monkeypatch, capfd, "verify", "--verbose", **named)
    assert (ran.code, ran.err) == (0, "")
    assert "proven in" in ran.out
    for table, name in itertools.product(TABLES, NAMES):
        flawed = (table.name, name) == ("learning_content", "drift")
        assert ran.row(table.name, name)[0] == ("warning" if flawed else "passed")
    query(target_url, "UPDATE rankings SET rank_score = 1 WHERE id = 2")
    ran = command(monkeypatch, capfd, "verify", "--verbose", **named)
    assert ran.code == 1
    outcome, found = ran.row("rankings", "digests")[:2]
    assert outcome == "failed"
    assert found.startswith("rankings 2, rank_score: source 4.50, target 1.00;")
    assert "rankings is not proven: digests, witness failed." in ran.err
    assert ran.row("rankings", "keys")[0] == "passed"
    assert ran.row("fragment_assets", "digests")[0] == "passed"
    assert "proven in" not in ran.out
    assert "Traceback" not in ran.out + ran.err


def test_the_job_says_which_table_has_never_moved_and_checks_the_others(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_all(source.path, target_url, tables=TABLES[:3])
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    result = verify_job(("rankings", "schema"), ("fragment_assets", "schema"))
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.user_failure_data.description == (
        "rankings has never been moved into the target. Move it first."
    )
    (made,) = result.get_asset_check_evaluations()
    assert (made.asset_key, made.passed) == (dg.AssetKey("fragment_assets"), True)


def test_a_wrong_schedule_is_one_sentence(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    wrong = usable(source, target_url, tmp_path) | {"VERIFY_CRON": "every day"}
    ran = pipeline("verify", **wrong)
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "VERIFY_CRON is not valid: 'every day' in time zone 'UTC'. Correct VERIFY_CRON"
        " (such as 0 3 * * *) or SCHEDULE_ZONE."
    ]
