"""What the UI shows of commands, runs and checks, asked as its pages ask: by GraphQL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from pipeline.core.proof import CHECKS, OF_A_VERIFICATION
from pipeline.orchestration import runs
from pipeline.orchestration.definitions import defs
from pipeline.orchestration.instance import processes
from pipeline.sqlite import tracking
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES, TABLES
from pipeline_tests.support.targets import query

# Dagster itself reads it for every schedule that it shows.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`"),
    pytest.mark.dagster,
]

LATER = "2027-01-01 00:00:00"
SHOWN_CHECKS = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
    status runId evaluation { severity description metadataEntries { label
      ... on TimestampMetadataEntry { timestamp } ... on PipelineRunMetadataEntry { runId }
      ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue }
    } } } } } } } } }
"""
RUNS_OF_A_JOB = """
query($job: String!) { runsOrError(filter: {pipelineName: $job, tags: [
  {key: ".dagster/repository", value: "__repository__@pipeline"}]}) { ... on Runs { results {
    runId status tags { key value } repositoryOrigin { repositoryName repositoryLocationName }
  } } } }
"""
DESCRIBED = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name description }
  schedules { name description } sensors { name description }
  assetNodes { assetKey { path } groupName description assetChecksOrError {
    ... on AssetChecks { checks { name description } } } } } } } }
"""


class Screens:
    """The UI's answers."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        """Keep the context of the UI's server."""
        self._context = context

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer without errors."""
        found = execute_dagster_graphql(self._context.create_request_context(), query, variables)
        assert not found.errors
        return found.data

    def checks(self, table: str) -> dict[str, dict[str, Any]]:
        """The result that the page of an asset shows for each check; {} if it shows none."""
        found = self.ask(SHOWN_CHECKS, key={"path": [table]})["assetNodeOrError"]
        return {
            check["name"]: check["executionForLatestMaterialization"] or {}
            for check in found["assetChecksOrError"]["checks"]
        }

    def verification(self, table: str, check: str) -> dict[str, Any]:
        """What a check tells of its verification, with the outcome of the check."""
        shown = self.checks(table)[check]
        entries = {
            each["label"]: next(value for key, value in each.items() if key != "label")
            for each in shown["evaluation"]["metadataEntries"]
            if len(each) == 2
        }
        return {
            "status": shown["status"],
            **{name: entries.get(name) for name in ("verified_by", "rows_written_since")},
            "verification": entries.get("verification"),
        }

    def runs(self, job: str) -> list[dict[str, Any]]:
        """The runs that the page of a job lists."""
        found: list[dict[str, Any]] = self.ask(RUNS_OF_A_JOB, job=job)["runsOrError"]["results"]
        return found


@contextmanager
def opened(instance: dg.DagsterInstance) -> Iterator[Screens]:
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="pipeline.orchestration.definitions"),
        location_name="pipeline",
    )
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
        yield Screens(context)


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """A source without a flaw."""
    source.add_family()
    # The declaration has no such column; the check drift would warn.
    source.run("ALTER TABLE learning_content DROP COLUMN last_review_at")
    return source


@pytest.fixture
def options(family: SourceFile, target_url: str, tmp_path: Path) -> dict[str, str]:
    return usable(family, target_url, tmp_path)


@pytest.fixture
def instance(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    use(monkeypatch, options)
    with runs.instance() as found:
        yield found


@pytest.fixture
def screens(instance: dg.DagsterInstance) -> Iterator[Screens]:
    with opened(instance) as found:
        yield found


def not_passed(screens: Screens) -> set[tuple[str, str, str | None]]:
    """The checks of all tables that do not show as passed."""
    shown = {table: screens.checks(table) for table in NAMES}
    assert all(set(found) == {check.name for check in CHECKS} for found in shown.values())
    return {
        (table, name, result.get("status"))
        for table, found in shown.items()
        for name, result in found.items()
        if result.get("status") != "SUCCEEDED"
    }


def test_all_checks_of_a_sound_table_show_as_passed_after_every_command(
    instance: dg.DagsterInstance, screens: Screens, family: SourceFile
) -> None:
    assert runs.run("migrate", opened=instance).success
    assert not_passed(screens) == {(table, "schema", None) for table in NAMES}
    for job in ("verify", "sync", "migrate", "sync"):
        assert runs.run(job, opened=instance).success
        assert (job, not_passed(screens)) == (job, set())
    family.run(f"UPDATE rankings SET updated_at = '{LATER}' WHERE id = 3")
    assert runs.run("sync", opened=instance).success
    assert not_passed(screens) == set()


def test_a_sync_shows_when_a_table_was_verified_and_what_was_written_since(
    instance: dg.DagsterInstance, screens: Screens, family: SourceFile
) -> None:
    assert runs.run("migrate", opened=instance).success
    verified = runs.run("verify", opened=instance).run_id
    for written in (1, 2):
        later = f"'2027-01-0{written} 00:00:00'"
        family.run(f"UPDATE learning_content SET title = 'x', updated_at = {later} WHERE id = 1")
        assert runs.run("sync", opened=instance).success
        for name in OF_A_VERIFICATION:
            assert (name, screens.verification("learning_content", name)) == (
                name,
                {
                    "status": "SUCCEEDED",
                    "verified_by": verified,
                    "verification": "passed",
                    "rows_written_since": written,
                },
            )
    assert screens.verification("rankings", "digests")["rows_written_since"] == 0
    described = screens.checks("rankings")["schema"]["evaluation"]["description"]
    assert described.count("; not checked again by later moves)") == 1
    newest = instance.get_latest_materialization_event(dg.AssetKey("learning_content"))
    assert newest is not None
    assert newest.asset_materialization is not None
    shown = {name: each.value for name, each in newest.asset_materialization.metadata.items()}
    assert (shown["verified_by"], shown["verification"], shown["rows_written_since"]) == (
        verified,
        "passed",
        2,
    )


def test_a_sync_hides_no_difference_that_a_verification_has_found(
    instance: dg.DagsterInstance, screens: Screens, family: SourceFile, target_url: str
) -> None:
    tracking.switch_on(family.path, TABLES)
    assert runs.run("migrate", opened=instance).success
    assert runs.run("verify", opened=instance).success
    query(target_url, "UPDATE rankings SET rank_score = 1 WHERE id = 2")
    assert not runs.run("verify", opened=instance).success
    found = {("rankings", "digests", "FAILED"), ("rankings", "witness", "FAILED")}
    assert not_passed(screens) == found
    for again in (False, True):
        if again:
            family.run(f"UPDATE rankings SET updated_at = '{LATER}' WHERE id = 3")
        assert runs.run("sync", opened=instance).success
        assert not_passed(screens) == found
        shown = screens.checks("rankings")["digests"]["evaluation"]
        assert shown["severity"] == "WARN"
        assert shown["description"].startswith(
            "failed: rankings 2, rank_score: source 4.50, target 1.00"
        )
        assert shown["description"].endswith(
            "Rows that have not changed since then were not compared again. Run pipeline migrate"
            " or pipeline verify to compare all rows."
        )
    assert runs.run("migrate", opened=instance).success
    assert not_passed(screens) == set()
    assert runs.run("sync", opened=instance).success
    assert not_passed(screens) == set()


def test_a_changed_schema_is_seen_by_the_next_whole_move(
    instance: dg.DagsterInstance, screens: Screens, target_url: str
) -> None:
    for job in ("migrate", "verify"):
        assert runs.run(job, opened=instance).success
    query(target_url, "ALTER TABLE rankings ALTER COLUMN assessed_by SET DEFAULT 'x'")
    assert runs.run("migrate", opened=instance).success
    found = {("rankings", "schema", "FAILED")}
    assert not_passed(screens) == found
    assert screens.checks("rankings")["schema"]["evaluation"]["severity"] == "WARN"
    assert runs.run("sync", opened=instance).success
    assert not_passed(screens) == found


def test_runs_of_commands_are_listed_with_their_job(
    options: dict[str, str], instance: dg.DagsterInstance, screens: Screens
) -> None:
    options |= {"DATABASE_URL": os.environ["DATABASE_URL"]}
    for command in ("migrate", "sync", "plan", "verify"):
        ran = pipeline(command, **options)
        assert ran.code == 0, ran.err
    for command in ("migrate", "sync", "plan", "verify"):
        (shown,) = screens.runs(command)
        assert shown["status"] == "SUCCESS"
        assert shown["repositoryOrigin"] == {
            "repositoryName": "__repository__",
            "repositoryLocationName": "pipeline",
        }
        tags = {tag["key"]: tag["value"] for tag in shown["tags"]}
        assert tags["pipeline/command"] == f"pipeline {command}"
        assert tags["dagster/code_location"] == "pipeline"
        assert not any("password" in value or "://" in value for value in tags.values())


def test_a_run_that_the_ui_starts_again_is_not_taken_for_that_of_an_ended_command(
    instance: dg.DagsterInstance,
) -> None:
    job = defs.resolve_job_def("plan")
    gone = {processes.TAG: "elsewhere 1 1", processes.COMMAND: "pipeline plan"}
    first = instance.create_run_for_job(job, tags=gone)
    assert first.remote_job_origin is not None
    assert gone.items() <= first.tags.items()
    # The UI hands over all tags of the first run.
    second = instance.create_run_for_job(
        job,
        tags={**first.tags, "by": "me"},
        parent_run_id=first.run_id,
        root_run_id=first.run_id,
        remote_job_origin=first.remote_job_origin,
    )
    stored = instance.get_run_by_id(second.run_id)
    assert stored is not None
    assert stored.tags["by"] == "me"
    assert not any(name.startswith("pipeline/") for name in stored.tags)


def test_everything_that_the_ui_lists_has_a_description(screens: Screens) -> None:
    (listed,) = screens.ask(DESCRIBED)["repositoriesOrError"]["nodes"]
    nodes = listed["assetNodes"]
    named = {
        *((each["name"], each["description"]) for each in listed["jobs"]),
        *((each["name"], each["description"]) for each in listed["schedules"]),
        *((each["name"], each["description"]) for each in listed["sensors"]),
        *((".".join(each["assetKey"]["path"]), each["description"]) for each in nodes),
        *(
            (each["name"], each["description"])
            for node in nodes
            for each in node["assetChecksOrError"].get("checks", ())
        ),
    }
    assert len(named) > 50
    lacking = {name for name, text in named if not (text or "").strip().endswith(".")}
    # Dagster adds this job for assets that are materialized by hand.
    assert lacking <= {"__ASSET_JOB"}
    assert {each["groupName"] for each in nodes} <= {
        *("content", "spaces", "anki", "realtime", "operations")
    }
