"""Schedules, and the sensor that starts a sync when the source file has changed.

A tick is skipped while another run is active: two runs never write to the same target.
"""

import itertools
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import dagster as dg

from pipeline.config import environment, settings
from pipeline.config.environment import watched_file
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.cutover import states
from pipeline.migrations.declaration import Migration
from pipeline.postgres.driver import locks
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import fingerprint_of

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as Job,
    )

SENSOR_SECONDS = 30
"""Seconds between two inspections of the source file."""

_STARTING_SECONDS = 60.0
"""A run that started longer ago either holds the target's lock or has lost its process."""

_AGAIN_SECONDS = 300.0
"""The sensor's pause after a failed run."""

_WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]

Tick = Iterator[dg.RunRequest | dg.SkipReason]


def schedule(
    job: "Job", cron: str, *, setting: str, follows: Migration | None = None, on: bool = False
) -> dg.ScheduleDefinition:
    """A schedule that skips its ticks while a run is active.

    Args:
        job: the job to start.
        cron: the cron expression.
        setting: the setting that holds the expression, for errors.
        follows: a migration; the schedule pauses once the application writes to its target.
        on: whether the schedule starts switched on.

    Raises:
        SettingsError: the expression or the time zone cannot be used.
    """
    zone = settings.load().schedule_zone
    status = dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED

    pause = ", or once the application writes to the target" if follows else ""

    def tick(context: dg.ScheduleEvaluationContext) -> Tick:
        reason = under_way(context.instance, follows=follows)
        yield dg.SkipReason(reason) if reason else dg.RunRequest()

    try:
        return dg.ScheduleDefinition(
            job=job,
            cron_schedule=cron,
            execution_timezone=zone,
            default_status=status,
            execution_fn=tick,
            description=(
                f"Start {job.name} at {cron} in time zone {zone}, but not while another run is"
                f" active{pause}."
            ),
        )
    except (dg.DagsterInvalidDefinitionError, ValueError) as error:
        raise _unusable(setting, cron, zone) from error


def source_sensor(job: "Job", migration: Migration, *, on: bool = False) -> dg.SensorDefinition:
    """A sensor that starts a job when the source file has changed.

    Args:
        job: the job to start.
        migration: the migration whose source is watched.
        on: whether the sensor starts switched on.
    """
    status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=migration.named("source_written"),
        job=job,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=status,
        description=f"Start {job.name} when the source file has changed.",
    )
    def source_written(context: dg.SensorEvaluationContext) -> Tick:
        try:
            source = watched_file(settings.load(), migration)
        except PipelineError as error:
            yield dg.SkipReason(str(error.for_migration(migration.address)))
            return
        # A file that is being written has no fingerprint.
        fingerprint = fingerprint_of(source)
        again = _failed_long_ago(context.instance, job.name)
        if fingerprint is not None and fingerprint == context.cursor and not again:
            yield dg.SkipReason(f"{source} has not changed since the last inspection.")
        elif reason := under_way(context.instance, follows=migration):
            yield dg.SkipReason(reason)
        else:
            context.update_cursor(fingerprint or "")
            yield dg.RunRequest()

    return source_written


def interval(cron: str) -> timedelta:
    """The longest time from one tick of a cron expression to the next.

    Raises:
        SettingsError: the expression or the time zone cannot be used.
    """
    zone = settings.load().schedule_zone
    try:
        # Nine days show the interval of most schedules; a rare one needs some years.
        ticks = _ticks(cron, zone, days=9)
        if len(ticks) < 2:
            ticks = _ticks(cron, zone, days=9 * 366)
    except (dg.DagsterInvalidDefinitionError, ValueError, KeyError) as error:
        raise _unusable("SYNC_CRON", cron, zone) from error
    if len(ticks) < 2:
        raise _unusable("SYNC_CRON", cron, zone)
    return max(later - tick for tick, later in itertools.pairwise(ticks))


def _ticks(cron: str, zone: str, *, days: int) -> list[datetime]:
    start, form = datetime(2000, 1, 3), "%Y-%m-%d %H:%M"
    windows = dg.TimeWindowPartitionsDefinition(
        start=start, end=start + timedelta(days=days), fmt=form, cron_schedule=cron, timezone=zone
    )
    return [datetime.strptime(key, form) for key in windows.get_partition_keys()]


def _failed_long_ago(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether the last run of a job failed, and the pause after it is over."""
    last = instance.get_run_records(dg.RunsFilter(job_name=job), limit=1)
    if not last or last[0].dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return False
    ended = last[0].end_time or 0.0
    return time.time() - ended > _AGAIN_SECONDS


def under_way(instance: dg.DagsterInstance, *, follows: Migration | None) -> str | None:
    """Why no run may start now, as a sentence; None if one may.

    Args:
        instance: Dagster's instance.
        follows: a migration; no run may start once the application writes to its target.
    """
    now = datetime.now(timezone.utc)  # noqa: UP017
    for record in instance.get_run_records(dg.RunsFilter(statuses=_WAITING)):
        run = record.dagster_run
        starting = now - record.create_timestamp < timedelta(seconds=_STARTING_SECONDS)
        if starting or run.status == dg.DagsterRunStatus.QUEUED:
            return f"Run {run.run_id} of {run.job_name} is active."
    found = environment.server(settings.load())
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        holder = locks.holder(target.rows)
        no = states.why_not_following(target, follows.name) if follows else None
    if no:
        return f"{no}."
    return f"{found.target_shown} is in use by {holder}." if holder else None


def _unusable(setting: str, cron: str, zone: str) -> SettingsError:
    return SettingsError(
        f"{setting} is not valid: {cron!r} in time zone {zone!r}",
        remedy=f"Correct {setting} (such as 0 3 * * *) or SCHEDULE_ZONE",
    )
