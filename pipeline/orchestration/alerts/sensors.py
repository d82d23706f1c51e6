"""Sensors that send alerts: one about failed runs, one about failed checks.

Each cursor holds the newest processed event and the alerts that are still due. Dagster's own run
status sensors would skip an alert while a receiver is down; these retry it at later ticks, up to
``TRIES`` times with growing pauses. Each receiver gets an alert once, or twice if the daemon stops
between sending it and storing the cursor.
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
"""Seconds between two ticks."""
TRIES = 8
"""Attempts to send an alert to one receiver, in about an hour and a half."""
PENDING = 100
"""Maximum number of runs with alerts that are due."""
_AT_ONCE = 20
_TICK_LIMIT = 30.0
"""A tick may take a minute; after half of it the rest is left to the next tick."""
_LONGEST_PAUSE = 1800.0

_WHAT = {
    "run_failed": (dg.DagsterEventType.RUN_FAILURE, "Send alerts about failed runs."),
    "checks_failed": (
        dg.DagsterEventType.RUN_SUCCESS,
        "Send alerts about failed checks in successful runs.",
    ),
}


class Due(BaseModel):
    """An alert about one run that one receiver has not received yet.

    Attributes:
        tries: failed attempts.
        after: earliest time of the next attempt, in seconds since 1970.
    """

    tries: int = 0
    after: float = 0.0


class Cursor(BaseModel):
    """The state of a sensor.

    Attributes:
        told: storage id of the newest processed event.
        due: run -> receiver -> the alert that is due.
    """

    told: int
    due: dict[str, dict[str, Due]] = {}


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors, which start switched on if a receiver is configured.

    Raises:
        SettingsError: the settings of receivers contradict each other.
    """
    on = bool(receivers(settings.alerts))
    status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED
    return [_sensor(name, event, what, status) for name, (event, what) in _WHAT.items()]


def _sensor(
    name: str, event: dg.DagsterEventType, description: str, status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=status,
        description=description,
    )
    def send_alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        loaded = settings.load()
        who = receivers(loaded.alerts)
        if not who:
            return dg.SkipReason(
                "No receiver is configured: set ALERT_WEBHOOK_URL or ALERT_SMTP_URL."
            )
        try:
            cursor = Cursor.model_validate_json(context.cursor or "")
        except ValidationError:
            # Runs that ended before a receiver was configured are skipped.
            newest = context.instance.fetch_run_status_changes(event, limit=1).records
            cursor = Cursor(told=newest[0].storage_id if newest else 0)
        _collect(context.instance, event, cursor, who)
        outcomes = _send(context, cursor, who, loaded)
        context.update_cursor(cursor.model_dump_json())
        return dg.SkipReason(" ".join(outcomes) or "No alert is due.")

    return send_alerts


def _collect(
    instance: dg.DagsterInstance, event: Any, cursor: Cursor, who: Sequence[Receiver]
) -> None:
    """Add the runs that have ended since the last tick."""
    wanted = dg.RunStatusChangeRecordsFilter(event, after_storage_id=cursor.told)
    changes = instance.fetch_run_status_changes(wanted, limit=_AT_ONCE, ascending=True)
    for record in changes.records:
        cursor.told = record.storage_id
        cursor.due[record.run_id] = {receiver.name: Due() for receiver in who}


def _send(
    context: dg.SensorEvaluationContext,
    cursor: Cursor,
    who: Sequence[Receiver],
    loaded: Settings,
) -> list[str]:
    """Send due alerts and remove them from the cursor; returns a sentence for each."""
    outcomes: list[str] = []
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
                    outcomes.append(f"Sent the alert about run {run_id} to {receiver.name}.")
                    del left[receiver.name]
                except NotDelivered as error:
                    silent.add(receiver.name)
                    outcomes.append(
                        _postpone(context, left, receiver.name, f"Run {run_id}: {error}")
                    )
    _forget(context, cursor, {each.name for each in who})
    return outcomes


def _postpone(
    context: dg.SensorEvaluationContext, left: dict[str, Due], name: str, problem: str
) -> str:
    """Postpone an alert, or give it up after the last attempt; returns a sentence."""
    due = left[name]
    due.tries += 1
    if due.tries >= TRIES:
        del left[name]
        context.log.error(f"{problem} The alert was discarded after {TRIES} attempts.")
        return f"{problem} The alert was discarded."
    pause = min(TICK_SECONDS * 2.0**due.tries, _LONGEST_PAUSE)
    due.after = time.time() + pause
    context.log.warning(f"{problem} The next attempt is in {pause:,.0f} s.")
    return f"{problem} The next attempt is in {pause:,.0f} s."


def _forget(context: dg.SensorEvaluationContext, cursor: Cursor, who: set[str]) -> None:
    """Drop alerts for receivers that are no longer configured, and the oldest ones if too many."""
    due = {
        run_id: {name: each for name, each in left.items() if name in who}
        for run_id, left in cursor.due.items()
    }
    waiting = [run_id for run_id, left in due.items() if left]
    if len(waiting) > PENDING:
        context.log.error(f"{len(waiting) - PENDING} alerts were discarded: too many are waiting.")
    cursor.due = {run_id: due[run_id] for run_id in waiting[-PENDING:]}
