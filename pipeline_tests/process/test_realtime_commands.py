"""Realtime as jobs and commands: switched on, looked at, and kept small."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.declared.events import FLEETING, STORED
from pipeline.realtime import canary
from pipeline.realtime.checks import NAMES
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.feeds import PEOPLE, changes, make_tables, switch_on
from pipeline_tests.support.runs import loaded
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

STATUS = ("published", "no_secrets_published", "triggers", "channels", "feed")


@pytest.fixture(scope="module")
def template(server: URL, dagster_tables: str) -> Iterator[str]:
    """Tables without a feed, beside Dagster's."""
    with new_database(server, "realtime_template", template=dagster_tables) as made:
        make_tables(libpq(made))
        query(libpq(made), PEOPLE)
        yield "realtime_template"


@pytest.fixture
def settings(
    server: URL, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Settings that name a target with tables and without a feed."""
    source = SourceFile.make(tmp_path / "source.db")
    with new_database(server, "realtime_test", template=template) as made:
        found = {
            "SQLITE_DATABASE_URL": f"sqlite:///{source.path}",
            "DATABASE_URL": libpq(made),
            "PIPELINE_HOME": str(tmp_path / "home"),
        }
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield found


def run(job: str) -> dg.ExecuteInProcessResult:
    with loaded("spaces") as defs:
        found = defs.resolve_job_def(job)
    return found.execute_in_process(instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)


def shown(result: dg.ExecuteInProcessResult, node: str) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(node)
    return {name: value.value for name, value in made.metadata.items()}


def test_the_job_switches_realtime_on_and_shows_what_it_found(settings: dict[str, str]) -> None:
    result = run("realtime")
    assert result.success
    found = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {name: found[name].passed for name in NAMES} == dict.fromkeys(NAMES, True)
    figures = shown(result, "make_realtime")
    assert (figures["tables"], figures["columns"], figures["triggers"]) == (6, 43, 29)
    assert figures["private_channels"] == "no Realtime in this target"
    assert {name for name in figures if name.endswith("_ms")} == {
        canary.milliseconds(event) for event in (*STORED, *FLEETING)
    }
    again = run("realtime")
    assert shown(again, "make_realtime")["triggers_made"] == 0
    assert shown(again, "make_realtime")["published_anew"] == "nothing"


def test_the_job_fails_while_the_tables_are_not_there(settings: dict[str, str]) -> None:
    query(settings["DATABASE_URL"], "DROP TABLE progress")
    result = run("realtime")
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert said.description == (
        "The target has no table progress yet, so its changes cannot be published."
        " Run pipeline migrate spaces first."
    )
    assert query(settings["DATABASE_URL"], "SELECT to_regnamespace('feed') IS NULL") == [(True,)]


def test_the_job_of_the_feed_forgets_what_is_older_than_its_hours(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = settings["DATABASE_URL"]
    assert shown(run("feed"), "feed_retention") == {"pruned": 0, "feed_rows": 0, "feed_bytes": 0}
    switch_on(url)
    for n in (1, 2):
        query(url, f"UPDATE notes SET title = '{n}'")
    query(url, "UPDATE feed.changes SET at = at - interval '3 hours' WHERE id = 1")
    assert shown(run("feed"), "feed_retention")["pruned"] == 0
    monkeypatch.setenv("FEED_HOURS", "2")
    figures = shown(run("feed"), "feed_retention")
    assert (figures["pruned"], figures["feed_rows"]) == (1, 1)
    assert len(changes(url)) == 1


def test_the_commands_switch_on_and_tell(settings: dict[str, str]) -> None:
    settings["MIGRATIONS"] = "spaces"
    before = pipeline("realtime", "status", **settings)
    assert before.code == 1
    assert before.row("triggers") == ["differs", "schema feed: missing; run pipeline realtime on"]
    assert before.row("feed") == ["no feed exists; run pipeline realtime on"]
    done = pipeline("realtime", "on", **settings)
    assert (done.code, done.err) == (0, "")
    assert "proven in" in done.out
    after = pipeline("realtime", "status", **settings)
    assert (after.code, after.err) == (0, "")
    assert [after.row(name)[0] for name in STATUS[:-1]] == ["as declared"] * 4
    assert after.row("feed") == ["0 changes, the newest 0; kept for 48 hours"]
    query(
        settings["DATABASE_URL"],
        "CREATE TABLE theirs (id int PRIMARY KEY);"
        " ALTER PUBLICATION supabase_realtime ADD TABLE theirs",
    )
    warned = pipeline("realtime", "status", **settings)
    assert warned.code == 0
    assert warned.row("published") == [
        "differs",
        "theirs is also published, but no migration declares it",
    ]


def test_a_command_fails_if_a_check_failed_though_its_run_succeeded(
    settings: dict[str, str],
) -> None:
    settings["MIGRATIONS"] = "spaces"
    assert pipeline("realtime", "on", **settings).code == 0
    query(
        settings["DATABASE_URL"],
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER swallow BEFORE INSERT ON feed.changes"
        " FOR EACH ROW EXECUTE FUNCTION swallow()",
    )
    done = pipeline("realtime", "on", **settings)
    assert done.row("realtime", "canary")[0] == "failed"
    assert "proven in" not in done.out
    assert done.code == 1
