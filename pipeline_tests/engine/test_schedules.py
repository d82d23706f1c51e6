"""When a sync is started by itself: by the clock, and when the source file has been written.

Ticks are evaluated as Dagster's daemon evaluates them, on a real source file, a real target and a
real record of runs in the target's schema `dagster`.
"""

import itertools
import os
import runpy
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from sqlalchemy.engine import URL

from pipeline.config import environment, settings
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError, Transient
from pipeline.orchestration import definitions, schedules
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import usable
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import new_database, query

SETTLED = 1.1
"""Seconds after which two writes can be told apart by the file's time."""
STATUSES = dg.DagsterRunStatus
ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("pipeline"), "__repository__"), "sync"
)
"""Where a run that waits in the queue will be started."""

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def usual_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but a test itself say when a sync is started."""
    for name in ("SYNC_CRON", "SYNC_ON", "VERIFY_CRON", "SCHEDULE_ZONE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def url(server: URL, dagster_tables: str) -> Iterator[str]:
    """The URL of a database that all tests of this module share."""
    with new_database(server, "ticks", template=dagster_tables) as made:
        yield libpq(made)


@pytest.fixture
def instance(
    url: str, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's own instance in the target, with no run in it; settings name source and target."""
    use(monkeypatch, usable(source, url, tmp_path))
    query(url, "DELETE FROM dagster.runs")
    with dg.DagsterInstance.get() as opened:
        yield opened


def loaded_anew() -> dg.Definitions:
    """What Dagster loads in a process that has the settings of now."""
    found: dg.Definitions = runpy.run_path(str(definitions.__file__))["defs"]
    return found


def schedule_of(defs: dg.Definitions, job: str) -> dg.ScheduleDefinition:
    """The one schedule of a job."""
    (found,) = [
        each
        for each in defs.schedules or ()
        if isinstance(each, dg.ScheduleDefinition) and each.job_name == job
    ]
    return found


def sensor_of(defs: dg.Definitions) -> dg.SensorDefinition:
    """The sensor on the source file."""
    (found,) = [each for each in defs.sensors or () if each.name == "source_written"]
    return found


def run_of(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, *, seconds_ago: float = 0
) -> str:
    """Leave a run of job sync in a state, made so long ago; returns its number."""
    run_id = f"00000000-0000-4000-8000-{next(_numbers):012}"
    run = dg.DagsterRun(job_name="sync", run_id=run_id, status=status, remote_job_origin=ORIGIN)
    instance.add_run(run)
    query(
        os.environ["DATABASE_URL"],
        "UPDATE dagster.runs SET create_timestamp = create_timestamp - %s * interval '1 second'"
        " WHERE run_id = %s",
        (seconds_ago, run_id),
    )
    return run_id


def clock_tick(instance: dg.DagsterInstance, job: str = "sync") -> str | None:
    """Let a schedule tick; returns why it was skipped, None if it requests one run."""
    schedule = schedule_of(definitions.defs, job)
    with dg.build_schedule_context(
        instance,
        datetime(2026, 1, 5, 12, tzinfo=timezone.utc),  # noqa: UP017
    ) as context:
        data = schedule.evaluate_tick(context)
    assert len(data.run_requests or ()) == (data.skip_message is None)
    return data.skip_message


class Sensor:
    """The sensor on the source file, which keeps its cursor from tick to tick as the daemon does.

    Attributes:
        cursor: what it remembers.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Remember nothing yet."""
        self.cursor: str | None = None
        self._instance = instance

    def tick(self) -> str | None:
        """Look at the source; returns why nothing was requested, None if one run was."""
        sensor = sensor_of(definitions.defs)
        with dg.build_sensor_context(
            self._instance, self.cursor, definitions=definitions.defs
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        assert len(data.run_requests or ()) == (data.skip_message is None)
        return data.skip_message


def test_sync_is_scheduled_every_quarter_of_an_hour_and_off() -> None:
    defs = loaded_anew()
    sync = schedule_of(defs, "sync")
    assert (sync.cron_schedule, sync.execution_timezone) == ("*/15 * * * *", "UTC")
    assert sync.default_status == dg.DefaultScheduleStatus.STOPPED
    sensor = sensor_of(defs)
    assert (sensor.name, sensor.job_name) == ("source_written", "sync")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == schedules.SENSOR_SECONDS


def test_settings_switch_schedule_and_sensor_of_sync_on_and_say_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYNC_CRON", "30 4 * * 1")
    monkeypatch.setenv("SCHEDULE_ZONE", "Asia/Bangkok")
    monkeypatch.setenv("SYNC_ON", "true")
    defs = loaded_anew()
    sync, verify = schedule_of(defs, "sync"), schedule_of(defs, "verify")
    assert (sync.cron_schedule, sync.execution_timezone) == ("30 4 * * 1", "Asia/Bangkok")
    assert (verify.cron_schedule, verify.execution_timezone) == ("0 3 * * *", "Asia/Bangkok")
    assert sync.default_status == dg.DefaultScheduleStatus.RUNNING
    assert verify.default_status == dg.DefaultScheduleStatus.STOPPED
    assert sensor_of(defs).default_status == dg.DefaultSensorStatus.RUNNING


WRONG = {
    "a cron in words": ("SYNC_CRON", "every day"),
    "a cron with seconds": ("SYNC_CRON", "* * * * * *"),
    "a day that never comes": ("SYNC_CRON", "0 0 30 2 *"),
    "an unknown zone": ("SCHEDULE_ZONE", "Asia/Nowhere"),
}


@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_time_is_an_error_that_names_its_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    named, cron, zone = (name, value, "UTC")
    if name == "SCHEDULE_ZONE":
        # The first schedule that is made names it with its own setting.
        named, cron, zone = ("ANKI_CRON", "0 * * * *", value)
    with pytest.raises(SettingsError) as failed:
        loaded_anew()
    assert str(failed.value) == (
        f"{named} is not valid: {cron!r} in time zone {zone!r}."
        f" Correct {named} (such as 0 3 * * *) or SCHEDULE_ZONE."
    )


PAUSES = {
    "*/15 * * * *": timedelta(minutes=15),
    "* * * * *": timedelta(minutes=1),
    "@hourly": timedelta(hours=1),
    "0 3 * * *": timedelta(days=1),
    "15 2 * * 0": timedelta(days=7),
}


@pytest.mark.parametrize(("cron", "pause"), PAUSES.items(), ids=PAUSES.keys())
def test_a_table_is_stale_when_two_ticks_in_a_row_brought_nothing(
    cron: str, pause: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_CRON", cron)
    assert schedules.interval(cron) == pause
    policies = {
        spec.key.to_user_string(): spec.freshness_policy
        for spec in loaded_anew().resolve_all_asset_specs()
    }
    usual = dg.FreshnessPolicy.time_window(warn_window=2 * pause, fail_window=4 * pause)
    others = policies.keys() - set(NAMES)
    assert policies == {**dict.fromkeys(NAMES, usual), **dict.fromkeys(others)}


@pytest.mark.parametrize(
    ("cron", "pause"),
    [("0 8-18 * * *", timedelta(hours=14)), ("0 9,17 * * 1-5", timedelta(hours=64))],
)
def test_a_pause_that_is_meant_makes_no_table_stale(cron: str, pause: timedelta) -> None:
    """A schedule that rests at night or at weekends: four intervals must outlast the rest."""
    assert 4 * schedules.interval(cron) > pause


def test_a_schedule_that_ticks_once_a_year_can_be_used() -> None:
    assert schedules.interval("0 0 1 1 *") == timedelta(days=366)


@pytest.mark.parametrize("job", ["sync", "verify"])
def test_a_tick_of_the_clock_requests_a_run_while_nobody_works(
    instance: dg.DagsterInstance, job: str
) -> None:
    assert clock_tick(instance, job) is None


@pytest.mark.parametrize("job", ["sync", "verify"])
def test_a_tick_is_skipped_while_another_session_holds_the_target(
    instance: dg.DagsterInstance, url: str, job: str
) -> None:
    with Target.connect(url, shown="the target") as other, other.lock():
        ((number, since),) = other.rows(
            "SELECT pid, to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS') FROM pg_stat_activity"
            " WHERE pid = pg_backend_pid()"
        )
        shown = environment.server(settings.load()).target_shown
        assert clock_tick(instance, job) == (
            f"{shown} is in use by another run (server process {number}, from a local socket,"
            f" application pipeline, connected since {since} UTC)."
        )
    assert clock_tick(instance, job) is None


UNDER_WAY = {
    "queued just now": (STATUSES.QUEUED, 0),
    "queued for a day": (STATUSES.QUEUED, 86_400),
    "made just now": (STATUSES.NOT_STARTED, 0),
    "starting": (STATUSES.STARTING, 0),
    "started just now": (STATUSES.STARTED, 0),
}


@pytest.mark.parametrize(("status", "seconds"), UNDER_WAY.values(), ids=UNDER_WAY.keys())
def test_a_tick_is_skipped_while_a_run_waits_or_has_just_started(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, seconds: float
) -> None:
    run_id = run_of(instance, status, seconds_ago=seconds)
    assert clock_tick(instance) == f"Run {run_id} of sync is active."
    sensor = Sensor(instance)
    assert (sensor.tick(), sensor.cursor) == (f"Run {run_id} of sync is active.", None)


OVER = {
    "succeeded": (STATUSES.SUCCESS, 0),
    "failed": (STATUSES.FAILURE, 0),
    "canceled": (STATUSES.CANCELED, 0),
    "died an hour ago": (STATUSES.STARTED, 3_600),
    "died an hour ago before it began": (STATUSES.STARTING, 3_600),
}


@pytest.mark.parametrize(("status", "seconds"), OVER.values(), ids=OVER.keys())
def test_a_run_that_ended_or_died_stops_no_tick(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, seconds: float
) -> None:
    run_of(instance, status, seconds_ago=seconds)
    assert clock_tick(instance) is None
    assert Sensor(instance).tick() is None


@pytest.mark.parametrize("zone", ["Asia/Bangkok", "America/New_York"])
def test_the_time_zone_of_the_server_does_not_make_a_run_older_or_younger(
    url: str, zone: str, request: pytest.FixtureRequest
) -> None:
    query(url, f"ALTER DATABASE ticks SET timezone = '{zone}'")
    request.addfinalizer(lambda: query(url, "ALTER DATABASE ticks RESET timezone"))
    instance: dg.DagsterInstance = request.getfixturevalue("instance")
    fresh = run_of(instance, STATUSES.STARTED)
    assert clock_tick(instance) == f"Run {fresh} of sync is active."
    instance.delete_run(fresh)
    run_of(instance, STATUSES.STARTED, seconds_ago=3_600)
    assert clock_tick(instance) is None


def test_a_tick_while_no_target_answers_fails_with_a_sentence_and_without_a_password(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cr3t@127.0.0.1:1/db")
    with pytest.raises((Transient, dg.DagsterError)) as failed:
        clock_tick(instance)
    cause = failed.value.__cause__ or failed.value
    assert "PostgreSQL db at 127.0.0.1:1: the server does not respond" in str(cause)
    assert "s3cr3t" not in f"{failed.value}{cause}"


def test_the_sensor_requests_a_run_once_when_the_source_was_written(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    sensor = Sensor(instance)
    nothing_new = f"{source.path} has not changed since the last inspection."
    time.sleep(SETTLED)
    assert [sensor.tick(), sensor.tick(), sensor.tick()] == [None, nothing_new, nothing_new]
    source.add("learning_content", {"id": 1})
    time.sleep(SETTLED)
    assert [sensor.tick(), sensor.tick()] == [None, nothing_new]


def test_the_sensor_does_not_miss_a_write_right_after_its_look(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    sensor = Sensor(instance)
    source.add("learning_content", {"id": 1})
    assert sensor.tick() is None
    before = source.path.stat()
    source.run("UPDATE learning_content SET title = 'b'")
    # A file system with a coarse clock gives both writes one time; the size is the same anyway.
    os.utime(source.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.path.stat().st_size == before.st_size
    time.sleep(SETTLED)
    assert sensor.tick() is None
    assert sensor.tick() == f"{source.path} has not changed since the last inspection."


def test_the_sensor_sees_a_commit_that_is_in_the_write_ahead_log_alone(
    instance: dg.DagsterInstance, source: SourceFile
) -> None:
    sensor = Sensor(instance)
    source.add("learning_content", {"id": 1})
    with closing(sqlite3.connect(source.path)) as application:
        application.execute("PRAGMA journal_mode = WAL").fetchall()
        application.execute("UPDATE learning_content SET title = 'b'")
        application.commit()
        time.sleep(SETTLED)
        assert sensor.tick() is None
        assert sensor.tick() is not None
        before = source.path.stat()
        application.execute("UPDATE learning_content SET title = 'c'")
        application.commit()
        time.sleep(SETTLED)
        assert source.path.stat().st_mtime_ns == before.st_mtime_ns
        assert sensor.tick() is None
        assert sensor.tick() == f"{source.path} has not changed since the last inspection."


def test_the_sensor_takes_another_file_in_the_place_of_the_source_for_a_change(
    instance: dg.DagsterInstance, source: SourceFile, tmp_path: Path
) -> None:
    sensor = Sensor(instance)
    time.sleep(SETTLED)
    assert [sensor.tick() is None, sensor.tick() is None] == [True, False]
    looks = source.path.stat()
    copy = tmp_path / "backup.db"
    copy.write_bytes(source.path.read_bytes())
    os.utime(copy, ns=(looks.st_atime_ns, looks.st_mtime_ns))
    copy.replace(source.path)
    assert sensor.tick() is None


UNREADABLE: dict[str, tuple[Any, str]] = {
    "missing": (
        lambda path: path.unlink(),
        "There is no source at {}. Set SQLITE_DATABASE_URL to sqlite:///PATH of the SQLite file.",
    ),
    "empty": (
        lambda path: path.write_bytes(b""),
        "The source {} is empty (0 bytes). Check that SQLITE_DATABASE_URL names the right file.",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_the_sensor_says_why_the_source_cannot_be_looked_at_and_remembers_what_it_knew(
    instance: dg.DagsterInstance, source: SourceFile, spoil: Any, reason: str
) -> None:
    sensor = Sensor(instance)
    time.sleep(SETTLED)
    assert sensor.tick() is None
    known = sensor.cursor
    spoil(source.path)
    assert (sensor.tick(), sensor.cursor) == (reason.format(source.path), known)


def test_the_sensor_starts_a_failed_sync_again_after_five_minutes(
    instance: dg.DagsterInstance, url: str
) -> None:
    sensor = Sensor(instance)
    time.sleep(SETTLED)
    assert sensor.tick() is None
    run_of(instance, STATUSES.FAILURE)
    ended = "UPDATE dagster.runs SET end_time = extract(epoch FROM now()) - %s"
    requested = []
    for seconds_ago in (200, 400):
        query(url, ended, (seconds_ago,))
        requested.append(sensor.tick() is None)
    assert requested == [False, True]
    run_of(instance, STATUSES.SUCCESS)
    assert sensor.tick() is not None


def test_the_sensor_loses_no_change_that_comes_while_a_run_is_under_way(
    instance: dg.DagsterInstance, source: SourceFile, url: str
) -> None:
    sensor = Sensor(instance)
    time.sleep(SETTLED)
    assert sensor.tick() is None
    known = sensor.cursor
    source.add("learning_content", {"id": 1})
    time.sleep(SETTLED)
    with Target.connect(url, shown="the target") as other, other.lock():
        for _ in range(2):
            said = sensor.tick()
            assert said is not None
            assert "is in use by another run" in said
            assert sensor.cursor == known
    run_id = run_of(instance, STATUSES.QUEUED)
    assert (sensor.tick(), sensor.cursor) == (f"Run {run_id} of sync is active.", known)
    instance.delete_run(run_id)
    assert sensor.tick() is None
    assert sensor.cursor != known
    assert sensor.tick() == f"{source.path} has not changed since the last inspection."
