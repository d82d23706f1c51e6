"""Dagster's sensors that tell of runs: one of those that failed, one of checks that did.

Each remembers in its cursor up to which event it has told. Dagster's own sensors of a run's status
would move on when a receiver is down; these remember, too, who has yet to be told of what, and try
again at a later tick, up to ``TRIES`` times with growing pauses. So a run is told once to each
receiver, unless the daemon ends between sending and remembering: then its next tick tells it again.
"""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, ValidationError

from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.orchestration.alerts.receivers import NotDelivered, Receiver, receivers
from pipeline.orchestration.alerts.runs import alert_of

TICK_SECONDS = 30
"""How often the sensors look."""
TRIES = 8
"""So often an alert is sent to one receiver, in about an hour and a half."""
PENDING = 100
"""Of so many runs at most it is remembered that somebody has yet to be told."""
_AT_ONCE = 20
_TICK_LIMIT = 30.0
"""A tick may take a minute; after half of it the rest waits for the next one."""
_LONGEST_PAUSE = 1800.0

_WHAT = {
    "run_failed": (dg.DagsterEventType.RUN_FAILURE, "Tell the receivers of runs that failed."),
    "checks_failed": (
        dg.DagsterEventType.RUN_SUCCESS,
        "Tell the receivers of checks that failed in runs that did not.",
    ),
}


class Due(BaseModel):
    """What is left to do for one receiver of one run.

    Attributes:
        tries: how often it was tried.
        after: when it may be tried next, in seconds since 1970.
    """

    tries: int = 0
    after: float = 0.0


class Cursor(BaseModel):
    """What a sensor remembers.

    Attributes:
        told: the newest event that was looked at.
        due: run -> receiver -> what is left to do.
    """

    told: int
    due: dict[str, dict[str, Due]] = {}


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors, which run from the start once somebody is to be told.

    Raises:
        SettingsError: the settings of receivers do not fit together.
    """
    on = bool(receivers(settings.alerts))
    status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED
    return [_sensor(name, event, said, status) for name, (event, said) in _WHAT.items()]


def _sensor(
    name: str, event: dg.DagsterEventType, description: str, status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=status,
        description=description,
    )
    def told(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        loaded = settings.load()
        who = receivers(loaded.alerts)
        if not who:
            return dg.SkipReason("Nobody is to be told: set ALERT_WEBHOOK_URL or ALERT_SMTP_URL.")
        try:
            cursor = Cursor.model_validate_json(context.cursor or "")
        except ValidationError:
            # What ended before somebody was to be told is not told.
            newest = context.instance.fetch_run_status_changes(event, limit=1).records
            cursor = Cursor(told=newest[0].storage_id if newest else 0)
        _look(context.instance, event, cursor, who)
        said = _tell(context, cursor, who, loaded)
        context.update_cursor(cursor.model_dump_json())
        return dg.SkipReason(" ".join(said) or "No run ended that somebody is to be told of.")

    return told


def _look(
    instance: dg.DagsterInstance, event: Any, cursor: Cursor, who: Sequence[Receiver]
) -> None:
    """Note the runs that have ended since."""
    wanted = dg.RunStatusChangeRecordsFilter(event, after_storage_id=cursor.told)
    changes = instance.fetch_run_status_changes(wanted, limit=_AT_ONCE, ascending=True)
    for record in changes.records:
        cursor.told = record.storage_id
        cursor.due[record.run_id] = {receiver.name: Due() for receiver in who}


def _tell(
    context: dg.SensorEvaluationContext,
    cursor: Cursor,
    who: Sequence[Receiver],
    loaded: Settings,
) -> list[str]:
    """Tell what is due; returns sentences about it, and leaves in the cursor what remains."""
    said: list[str] = []
    silent: set[str] = set()
    until = time.monotonic() + _TICK_LIMIT
    for run_id, left in list(cursor.due.items()):
        now = time.time()
        open_ = [each for each in who if each.name in left and each.name not in silent]
        if time.monotonic() > until or not any(left[each.name].after <= now for each in open_):
            continue
        run = context.instance.get_run_by_id(run_id)
        alert = alert_of(run, context.instance, loaded) if run else None
        for receiver in open_:
            due = left[receiver.name]
            if alert is None:
                del left[receiver.name]
            elif due.after <= now:
                try:
                    receiver.send(alert)
                    said.append(f"Told {receiver.name} of run {run_id}.")
                    del left[receiver.name]
                except NotDelivered as error:
                    silent.add(receiver.name)
                    said.append(_postpone(context, left, receiver.name, f"Run {run_id}: {error}"))
    _forget(context, cursor, {each.name for each in who})
    return said


def _postpone(
    context: dg.SensorEvaluationContext, left: dict[str, Due], name: str, problem: str
) -> str:
    """Let an alert wait for another try, or give it up; returns what is said of it."""
    due = left[name]
    due.tries += 1
    if due.tries >= TRIES:
        del left[name]
        context.log.error(f"{problem} It was tried {TRIES} times and is given up.")
        return f"{problem} It is given up."
    pause = min(TICK_SECONDS * 2.0**due.tries, _LONGEST_PAUSE)
    due.after = time.time() + pause
    context.log.warning(f"{problem} It is tried again in {pause:,.0f} s.")
    return f"{problem} It is tried again in {pause:,.0f} s."


def _forget(context: dg.SensorEvaluationContext, cursor: Cursor, who: set[str]) -> None:
    """Keep what remains due, of a bounded number of runs, to receivers that there still are."""
    due = {
        run_id: {name: each for name, each in left.items() if name in who}
        for run_id, left in cursor.due.items()
    }
    waiting = [run_id for run_id, left in due.items() if left]
    if len(waiting) > PENDING:
        context.log.error(f"{len(waiting) - PENDING} alerts are given up; too many are waiting.")
    cursor.due = {run_id: due[run_id] for run_id in waiting[-PENDING:]}
