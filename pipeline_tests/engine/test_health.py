"""Health: each thing that may have stopped is found stopped, and found well when it is."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import dagster as dg
import psycopg2
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._daemon.types import DaemonHeartbeat
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.orchestration.alerts.receivers import Webhook
from pipeline.orchestration.serving import health
from pipeline.orchestration.serving.components import Component, Reading
from pipeline.orchestration.serving.health import HEARTBEAT_SECONDS
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.receivers import Hook
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

QUARTER = 900.0
"""Seconds between two ticks of the schedule of sync."""
ORIGIN = RemoteInstigatorOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("pipeline"), "__repository__"),
    "sync_schedule",
)


@pytest.fixture(scope="module")
def url(server: URL) -> Iterator[str]:
    """The URL of a database that all tests of this module share."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE health")
        yield libpq(server.set(database="health"))
        connection.cursor().execute("DROP DATABASE health WITH (FORCE)")


@pytest.fixture
def instance(
    url: str, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance in the target, in which nothing has happened."""
    use(monkeypatch, usable(source, url, tmp_path))
    for table in ("runs", "jobs", "instigators", "daemon_heartbeats"):
        query(url, f"DELETE FROM dagster.{table}")
    with dg.DagsterInstance.get() as opened:
        yield opened


def read(component: Component) -> Reading:
    """How one thing is."""
    (found,) = health.readings(settings.load(), [component])
    return found


def beat(instance: dg.DagsterInstance, *, ago: float, lacking: str = "") -> None:
    """Let each part of the daemon have given a sign, but one."""
    for name in instance.get_required_daemon_types():
        if name != lacking:
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - ago, name, "it", []))


def switch_on(instance: dg.DagsterInstance, *, ago: float) -> None:
    """Let the schedule of sync have been switched on in the UI."""
    data = ScheduleInstigatorData("*/15 * * * *", time.time() - ago)
    state = InstigatorState(ORIGIN, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(state)


def ended(
    instance: dg.DagsterInstance,
    number: int,
    status: dg.DagsterRunStatus,
    *,
    ago: float,
    job: str = "sync",
) -> None:
    """Leave a run that ended."""
    run = dg.DagsterRun(job, f"00000000-0000-4000-8000-{number:012}", status=status)
    instance.add_run(run)
    settled = settings.load().database_url
    assert settled is not None
    query(
        settled.get_secret_value(),
        "UPDATE dagster.runs SET end_time = %s WHERE run_id = %s",
        (time.time() - ago, run.run_id),
    )


def test_a_target_that_answers_is_well(instance: dg.DagsterInstance) -> None:
    assert read(Component.TARGET).ok


def test_a_target_that_does_not_answer_is_told_without_its_password(
    source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://user:s3cr3t-pa55@127.0.0.1:1/db"
    for name, value in usable(source, url, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(settings.PROJECT))
    monkeypatch.setenv(settings.DAGSTER_URL, "")
    monkeypatch.setenv(settings.DAGSTER_FILES, "")
    found = health.readings(settings.load(), [Component.TARGET, Component.DAEMON, Component.SYNC])
    assert [reading.ok for reading in found] == [False] * 3
    assert all("127.0.0.1" in reading.detail for reading in found)
    assert not any(piece in f"{found}" for piece in ("s3cr3t", "pa55"))


@pytest.mark.dagster("fresh")
def test_a_target_without_a_record_of_runs_stays_without(
    target_url: str, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(settings.PROJECT))
    monkeypatch.setenv(settings.DAGSTER_URL, "")
    monkeypatch.setenv(settings.DAGSTER_FILES, "")
    assert read(Component.DAEMON).detail.endswith("has no record of runs. Start the daemon first.")
    assert query(target_url, "SELECT to_regnamespace('dagster')") == [(None,)]


def test_a_code_server_that_does_not_answer_is_unwell(instance: dg.DagsterInstance) -> None:
    found = read(Component.CODE)
    assert (found.ok, found.detail.startswith("no server answers on")) == (False, True)


@pytest.mark.parametrize(("status", "ok"), [(200, True), (500, False)])
def test_a_webserver_is_well_when_it_answers_as_it_should(
    status: int, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/server_info" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("UI_PORT", str(server.server_port))
        # Where it listens on every address, it is asked on this machine's own.
        monkeypatch.setenv("UI_HOST", "0.0.0.0")
        assert read(Component.WEBSERVER).ok == ok


def test_a_webserver_that_is_not_there_is_unwell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UI_PORT", "1")
    assert read(Component.WEBSERVER).detail.endswith("does not answer (ConnectError)")


def test_a_daemon_is_well_while_each_of_its_parts_gives_signs(instance: dg.DagsterInstance) -> None:
    beat(instance, ago=60)
    assert read(Component.DAEMON).ok


DAEMONS: dict[str, Callable[[dg.DagsterInstance], None]] = {
    "none has ever given a sign": lambda _: None,
    "signs are old": lambda it: beat(it, ago=HEARTBEAT_SECONDS + 5),
    "one part has given none": lambda it: beat(it, ago=1, lacking="SENSOR"),
}


@pytest.mark.parametrize("case", DAEMONS)
def test_a_daemon_that_gives_no_sign_is_unwell(case: str, instance: dg.DagsterInstance) -> None:
    DAEMONS[case](instance)
    found = read(Component.DAEMON)
    assert not found.ok
    assert "SENSOR" in found.detail


def test_no_sync_is_expected_while_its_schedule_is_off(instance: dg.DagsterInstance) -> None:
    assert read(Component.SYNC) == Reading(Component.SYNC, True, "the schedule is off")


def test_a_sync_of_late_is_well(instance: dg.DagsterInstance) -> None:
    switch_on(instance, ago=10 * QUARTER)
    ended(instance, 1, dg.DagsterRunStatus.SUCCESS, ago=1.9 * QUARTER)
    assert read(Component.SYNC).ok


def test_a_schedule_that_was_just_switched_on_has_time(instance: dg.DagsterInstance) -> None:
    ended(instance, 1, dg.DagsterRunStatus.SUCCESS, ago=90 * QUARTER)
    switch_on(instance, ago=QUARTER)
    assert read(Component.SYNC).ok


STALE: dict[str, Callable[[dg.DagsterInstance], None]] = {
    "none has ever succeeded": lambda _: None,
    "the newest is old": lambda it: ended(it, 1, dg.DagsterRunStatus.SUCCESS, ago=2.1 * QUARTER),
    "the newest failed": lambda it: ended(it, 1, dg.DagsterRunStatus.FAILURE, ago=60),
    "another job succeeded": lambda it: ended(
        it, 1, dg.DagsterRunStatus.SUCCESS, ago=60, job="migrate"
    ),
}


@pytest.mark.parametrize("case", STALE)
def test_syncs_that_have_stopped_are_unwell(case: str, instance: dg.DagsterInstance) -> None:
    switch_on(instance, ago=10 * QUARTER)
    STALE[case](instance)
    found = read(Component.SYNC)
    assert not found.ok, found
    assert "the limit is 0:30:00" in found.detail


def test_a_disk_needs_room_for_a_copy_and_some(
    instance: dg.DagsterInstance, source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(Component.DISK).ok
    # A sparse file is as large as it says and takes no room.
    with source.path.open("r+b") as file:
        file.truncate(2**42)
    assert not read(Component.DISK).ok


SICK = [
    Reading(Component.TARGET, True, "answers"),
    Reading(Component.DAEMON, False, "no sign of SENSOR"),
    Reading(Component.DISK, False, "is full"),
]


def test_what_is_unwell_twice_in_a_row_is_told_once(hook: Hook) -> None:
    loaded, who = settings.load(), [Webhook(hook.url)]
    for _ in range(2):
        assert hook.alerts == []
        assert health.send_changes(loaded, SICK, who) == []
    (alert,) = hook.alerts
    assert (alert["kind"], alert["text"]) == (
        "unwell",
        "daemon, disk failing\ndaemon: no sign of SENSOR\ndisk: is full",
    )
    health.send_changes(loaded, SICK, who)
    assert hook.asked == 1


def test_what_was_well_in_between_is_told_again(hook: Hook) -> None:
    loaded, who = settings.load(), [Webhook(hook.url)]
    well = [Reading(reading.component, True, "") for reading in SICK]
    for found in (SICK, SICK, well, SICK, well, SICK, SICK):
        health.send_changes(loaded, found, who)
    assert hook.asked == 2


def test_a_receiver_that_was_down_is_told_at_the_next_look(hook: Hook) -> None:
    loaded, who = settings.load(), [Webhook(hook.url)]
    hook.status = 500
    health.send_changes(loaded, SICK, who)
    (refused,) = health.send_changes(loaded, SICK, who)
    assert "s3cr3t" not in "".join(traceback.format_exception(refused))
    hook.status = 200
    assert health.send_changes(loaded, SICK, who) == []
    assert len(hook.alerts) == 1


def test_the_command_prints_a_line_for_each_and_fails_when_one_is_unwell(
    source: SourceFile, url: str, tmp_path: Path
) -> None:
    variables = usable(source, url, tmp_path) | {"UI_PORT": "1"}
    ran = pipeline("health", "target", "webserver", "--alert", **variables)
    assert (ran.code, ran.err) == (1, "")
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["target", "ok"],
        ["webserver", "failing"],
    ]
