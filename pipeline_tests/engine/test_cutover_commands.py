"""The evening of a cut-over as an operator has it: jobs in this process, and the commands."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipeline import backup
from pipeline.cutover import states
from pipeline.orchestration import runs
from pipeline.orchestration.assets.cutover import CUTOVER, GATE, STEP
from pipeline.orchestration.common.metadata import ANSWERS
from pipeline.orchestration.definitions import defs
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """A source without a flaw."""
    source.add_family()
    return source


@pytest.fixture
def instance(
    family: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's own instance in the target."""
    use(
        monkeypatch,
        {
            "SQLITE_DATABASE_URL": f"sqlite:///{family.path}",
            "DATABASE_URL": target_url,
            "PIPELINE_HOME": str(tmp_path / "home"),
            "LOCK_SECONDS": "0",
        },
    )
    with runs.instance() as opened:
        yield opened


def step(instance: dg.DagsterInstance, name: str) -> dg.ExecuteInProcessResult:
    """Run the job for one step, confirmed where it has to be."""
    config = {"step": name, "confirm": f"{name} content"}
    return runs.run("cutover", opened=instance, config={"ops": {STEP: {"config": config}}})


def gate(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """What the check of a run says."""
    (found,) = result.get_asset_check_evaluations()
    assert (found.asset_key.to_user_string(), found.check_name) == (CUTOVER, GATE)
    return found


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why the first step that failed did."""
    (first, *_) = [event for event in result.all_events if event.is_step_failure]
    found = first.step_failure_data.user_failure_data
    assert found is not None
    return f"{found.description}"


def noes(result: dg.ExecuteInProcessResult) -> set[str]:
    """Questions that were answered with no."""
    listed: Any = gate(result).metadata[ANSWERS].value
    return {answer["question"] for answer in listed if not answer["yes"]}


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the materialization tells."""
    (found,) = result.asset_materializations_for_node(STEP)
    return {name: value.value for name, value in found.metadata.items()}


OUTSIDE = {"the plan is current", "a backup was restored and verified"}


def test_the_whole_evening_there_and_back(
    instance: dg.DagsterInstance, family: SourceFile, target_url: str
) -> None:
    for job in ("plan", "migrate", "backup"):
        assert runs.run(job, opened=instance).success
    early = step(instance, "check")
    assert early.success
    assert gate(early).severity == dg.AssetCheckSeverity.WARN
    assert noes(early) == {
        "every value is proven",
        "nobody writes the source",
        "nobody else writes the target",
    }
    live = step(instance, "live")
    assert (live.success, gate(live).passed, gate(live).description) == (True, True, "open")
    told = shown(live)
    assert (told["state"], told["caught_up"]) == ("live", 0)
    assert 0 < told["blocked_seconds"] < 5
    for job in ("migrate", "sync", "redrive", "verify"):
        refused = runs.run(job, opened=instance)
        assert not refused.success
        said = failure(refused)
        assert said.startswith("The application writes to the target: the migration is live since")
        assert said.endswith("copies the target's changes to the source and enables moves again.")
    for last, said in (
        ("close", ""),
        ("close", "yes"),
        ("close", "close spaces"),
        ("rollback", ""),
    ):
        unconfirmed = {"step": last, "confirm": said}
        refused = runs.run(
            "cutover", opened=instance, config={"ops": {STEP: {"config": unconfirmed}}}
        )
        assert failure(refused) == (
            f"The step {last} cannot be undone and is not confirmed. Add this"
            f" line below step in the run's configuration: confirm: {last} content."
        )
    with Target.connect(target_url, shown="the target") as target:
        assert states.read(target, "content").state == "live"
    query(target_url, "UPDATE rankings SET rank_score = 1 WHERE id = 1")
    query(target_url, "DELETE FROM rankings WHERE id = 2")
    back = step(instance, "rollback")
    assert back.success
    assert shown(back)["rankings"] == "0 inserted, 1 updated, 1 deleted"
    assert family.run("SELECT id, rank_score FROM rankings WHERE id < 4") == [(1, 1.0), (3, 4.5)]
    assert runs.run("verify", opened=instance).success


def test_without_plan_and_backup_the_gate_stays_closed_and_nothing_is_frozen(
    instance: dg.DagsterInstance, family: SourceFile, target_url: str
) -> None:
    result = step(instance, "live")
    assert not result.success
    assert noes(result) == OUTSIDE
    assert gate(result).severity == dg.AssetCheckSeverity.ERROR
    with Target.connect(target_url, shown="the target") as target:
        assert states.read(target, "content").state == "shadow"
    family.run("UPDATE rankings SET rank_score = 1")


def test_a_plan_that_was_made_by_other_policies_is_not_current(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs.run("plan", opened=instance).success
    assert "the plan is current" not in noes(step(instance, "check"))
    monkeypatch.setenv("POLICY_NAIVE_ZONE", "Asia/Bangkok")
    assert "the plan is current" in noes(step(instance, "check"))


def test_a_backup_of_another_database_or_an_old_one_does_not_count(
    instance: dg.DagsterInstance,
    family: SourceFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert runs.run("backup", opened=instance).success
    assert noes(step(instance, "check")) & OUTSIDE == {"the plan is current"}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.orchestration.assets.cutover.BACKUP_HOURS", 0)
        assert noes(step(instance, "check")) & OUTSIDE == OUTSIDE
    with monkeypatch.context() as patch:
        of_another = replace(
            backup.newest(tmp_path / "home", "content"), target="PostgreSQL staging"
        )
        patch.setattr(backup, "newest", lambda *_: of_another)
        assert noes(step(instance, "check")) & OUTSIDE == OUTSIDE
    other = SourceFile.make(tmp_path / "other.db")
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"sqlite:///{other.path}")
    assert noes(step(instance, "check")) & OUTSIDE == OUTSIDE


def test_where_anki_is_set_its_checks_have_to_have_passed(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Anki is consistent" not in noes(step(instance, "check"))
    monkeypatch.setenv("ANKI_COLLECTION", str(tmp_path / "collection.anki2"))
    result = step(instance, "check")
    assert "Anki is consistent" in noes(result)
    assert "never checked: confirmed, note_exists" in (gate(result).description or "")


def test_schedules_that_follow_the_source_rest_once_it_is_live(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    assert runs.run("migrate", opened=instance).success
    query(
        target_url,
        "INSERT INTO migration.cutover (migration, state, run_id) VALUES ('content', 'live', 'x')",
    )
    told = {}
    for name in ("sync_schedule", "verify_schedule", "anki_sync_schedule"):
        context = dg.build_schedule_context(instance=instance)
        tick = defs.resolve_schedule_def(name).evaluate_tick(context)
        told[name] = tick.skip_message
    assert told.pop("anki_sync_schedule") is None
    for message in told.values():
        assert message.startswith("The application writes to the target: the migration is live")


def test_the_commands_print_the_gate_and_say_who_may_write(
    family: SourceFile, target_url: str, tmp_path: Path
) -> None:
    family.add("rankings", {"id": 70, "rank_score": 9.0})
    variables = {
        "SQLITE_DATABASE_URL": f"sqlite:///{family.path}",
        "DATABASE_URL": target_url,
        "PIPELINE_HOME": str(tmp_path / "home"),
    }
    closed = pipeline("cutover", "live", **variables)
    assert closed.code == 1
    assert "the migration is shadow" in closed.out
    assert "1 row of rankings (70)" in closed.out
    assert closed.err.startswith("The gate is closed, and the migration is shadow. ")
    signed = pipeline(
        *("cutover", "sign-off", "rankings", "--by", "Ann", "--reason", "a test row"), **variables
    )
    assert (signed.code, signed.out) == (
        0,
        "1 row of rankings may remain in quarantine, signed off by Ann\n",
    )
    unknown = pipeline(
        *("cutover", "sign-off", "rankings", "--row", "5", "--by", "Ann", "--reason", "x"),
        **variables,
    )
    assert unknown.code == 2
    assert unknown.err.startswith("No row 5 of rankings is in quarantine.")
    status = pipeline("cutover", "status", **variables)
    assert status.code == 0
    assert "1 row signed off" in status.out
    nothing = pipeline("rollback", **variables)
    assert nothing.code == 1
    assert "The migration is shadow, so there is nothing to roll back." in nothing.err
