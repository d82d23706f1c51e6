"""Sensors that send alerts: one about failed runs, one about failed checks.

Each cursor holds the newest processed event and the alerts that are still due. Dagster's own run
status sensors would skip an alert while a receiver is down; these retry it at later ticks, up to
``TRIES`` times with growing pauses. Receivers do not wait for each other, and a tick ends within
the minute that Dagster gives it, whatever receivers do. The cursor is stored after each attempt, so
a receiver that has accepted an alert does not get it again, even if the tick does not end.
"""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, ValidationError

from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.orchestration.alerts.delivery import Receiver, deliver
from pipeline.orchestration.alerts.message import Alert
from pipeline.orchestration.alerts.receivers import receivers
from pipeline.orchestration.alerts.runs import alert_of

TICK_SECONDS = 30
"""Seconds between two ticks."""
TRIES = 8
"""Attempts to send an alert to one receiver, in about an hour and a half."""
PENDING = 100
"""Maximum number of runs with alerts that are due."""
_AT_ONCE = 20
_READ_SECONDS, _SEND_SECONDS = 10.0, 15.0
"""A tick may take a minute. After so long, the runs not yet read and the alerts not yet begun are
left to the next tick; the last delivery may take another ``delivery.SECONDS``."""
_LATE_SECONDS = 60.0
"""Events are stored in another order than their ids; so late may one with a smaller id be."""
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
        told: storage id up to which all events are processed.
        recent: processed events after that, with the time of their processing.
        due: run -> receiver -> the alert that is due.
    """

    told: int
    recent: dict[int, float] = {}
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
        stored = _Stored(context.instance, f"pipeline alerts {name}", context.cursor or "")
        try:
            cursor = Cursor.model_validate_json(stored.latest())
        except ValidationError:
            # Runs that ended before a receiver was configured are skipped.
            newest = context.instance.fetch_run_status_changes(event, limit=1).records
            cursor = Cursor(told=newest[0].storage_id if newest else 0)
        _collect(context.instance, event, cursor, who)
        outcomes = _send(context, cursor, stored, _due(context.instance, cursor, who, loaded))
        _forget(context, cursor, {each.name for each in who})
        context.update_cursor(cursor.model_dump_json())
        stored.clear()
        return dg.SkipReason(" ".join(outcomes) or "No alert is due.")

    return send_alerts


def _collect(
    instance: dg.DagsterInstance, event: Any, cursor: Cursor, who: Sequence[Receiver]
) -> None:
    """Add the runs that have ended since the last tick."""
    wanted = dg.RunStatusChangeRecordsFilter(event, after_storage_id=cursor.told)
    limit, now = _AT_ONCE + len(cursor.recent), time.time()
    changes = instance.fetch_run_status_changes(wanted, limit=limit, ascending=True)
    for record in changes.records:
        if record.storage_id not in cursor.recent:
            cursor.recent[record.storage_id] = now
            cursor.due[record.run_id] = {receiver.name: Due() for receiver in who}
    settled = [event for event, at in cursor.recent.items() if at < now - _LATE_SECONDS]
    cursor.told = max([cursor.told, *settled])
    cursor.recent = {event: at for event, at in cursor.recent.items() if event > cursor.told}


def _due(
    instance: dg.DagsterInstance, cursor: Cursor, who: Sequence[Receiver], loaded: Settings
) -> list[tuple[Receiver, list[Alert]]]:
    """The alerts that each receiver is to get now; runs without an alert leave the cursor."""
    alerts: dict[str, list[Alert]] = {receiver.name: [] for receiver in who}
    until, now = time.monotonic() + _READ_SECONDS, time.time()
    for run_id, left in cursor.due.items():
        names = [name for name in left if name in alerts and left[name].after <= now]
        if not names:
            continue
        run = instance.get_run_by_id(run_id)
        alert = alert_of(run, instance, loaded) if run else None
        if alert is None:
            left.clear()
            continue
        for name in names:
            alerts[name].append(alert)
        if time.monotonic() > until:
            break
    return [(receiver, alerts[receiver.name]) for receiver in who]


def _send(
    context: dg.SensorEvaluationContext,
    cursor: Cursor,
    stored: "_Stored",
    waiting: Sequence[tuple[Receiver, Sequence[Alert]]],
) -> list[str]:
    """Send alerts and remove them from the cursor; returns a sentence for each."""
    outcomes: list[str] = []
    for delivery in deliver(waiting, seconds=_SEND_SECONDS):
        run_id, name = delivery.alert.run_id, delivery.receiver.name
        if delivery.error is None:
            outcomes.append(f"Sent the alert about run {run_id} to {name}.")
            del cursor.due[run_id][name]
        else:
            problem = f"Run {run_id}: {delivery.error}"
            outcomes.append(_postpone(context, cursor.due[run_id], name, problem))
        stored.keep(cursor)
    return outcomes


class _Stored:
    """The cursor of a tick that has not ended, in Dagster's storage.

    Dagster stores a sensor's cursor only when a tick has ended. If it does not end, the next tick
    begins with the same cursor; it then continues with the one that was stored here.
    """

    def __init__(self, instance: dg.DagsterInstance, key: str, begun: str) -> None:
        """``begun`` is the cursor that Dagster gave to the tick."""
        self._storage, self._key, self._begun = instance.daemon_cursor_storage, key, begun

    def latest(self) -> str:
        """The cursor to begin with."""
        stored = self._storage.get_cursor_values({self._key}).get(self._key)
        begun, _, latest = (stored or "").partition("\n")
        return latest if latest and begun == self._begun else self._begun

    def keep(self, cursor: Cursor) -> None:
        """Store the cursor."""
        value = f"{self._begun}\n{cursor.model_dump_json()}"
        self._storage.set_cursor_values({self._key: value})

    def clear(self) -> None:
        """Leave the cursor to Dagster, because the tick ends."""
        self._storage.set_cursor_values({self._key: ""})


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
