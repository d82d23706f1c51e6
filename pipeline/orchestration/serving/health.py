"""Whether what runs for good is well: a reading for each thing that may have stopped.

Nothing is changed by looking, except that the embedded server runs afterwards if it is the target
or has Dagster's records, and that a sample source is created if none is configured.
"""

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx

from pipeline.config import records
from pipeline.config.environment import server
from pipeline.config.records import Records
from pipeline.config.settings import Settings
from pipeline.core import private
from pipeline.core.errors import FilesError, PipelineError, SettingsError, TargetError
from pipeline.core.quoting import size
from pipeline.cutover import states
from pipeline.migrations.declaration import Migration
from pipeline.orchestration import schedules
from pipeline.orchestration.alerts.delivery import Receiver, deliver
from pipeline.orchestration.alerts.message import Alert
from pipeline.orchestration.instance import storage
from pipeline.orchestration.serving import services
from pipeline.orchestration.serving.components import Component, Reading
from pipeline.postgres.target import Target

HEARTBEAT_SECONDS = 300.0
"""Each part of the daemon gives a sign every half minute, unless a tick takes longer."""
SPARE_BYTES = 256 * 2**20
"""Room in PIPELINE_HOME for evidence and output, beside a copy of the source."""
_SECONDS = 10
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not bound to


def readings(settings: Settings, components: Collection[Component]) -> list[Reading]:
    """Examine some components, or all if none is named.

    Raises:
        SettingsError: a setting is malformed.
    """
    return [
        _read(component, inspect, settings)
        for component, inspect in _INSPECTIONS.items()
        if not components or component in components
    ]


def send_changes(
    settings: Settings, found: Sequence[Reading], who: Sequence[Receiver]
) -> list[Exception]:
    """Send an alert for each component that is failing for the second time in a row, once.

    Files record what was seen and sent; they are removed when the component recovers.

    Returns:
        Failed deliveries; the next call tries them again.

    Raises:
        SettingsError: the files cannot be written.
    """
    try:
        notes = private.folder(private.home(settings.pipeline_home) / "unwell")
        new = {each.name: _newly_failing(each, found, notes) for each in who}
        waiting = [(each, _alerts(new[each.name])) for each in who]
        failed = []
        for delivery in deliver(waiting):
            if delivery.error is not None:
                failed.append(delivery.error)
                continue
            for _, note in new[delivery.receiver.name]:
                private.write_text(note, "sent")
        return failed
    except (OSError, FilesError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or error
        raise SettingsError(
            f"The state of alerts cannot be stored in {settings.pipeline_home} ({why})",
            remedy="Free disk space and check the permissions of PIPELINE_HOME",
        ) from error


def _newly_failing(
    receiver: Receiver, found: Sequence[Reading], folder: Path
) -> list[tuple[Reading, Path]]:
    """Components that the receiver has to hear of, with their files."""
    new: list[tuple[Reading, Path]] = []
    for reading in found:
        note = folder / f"{reading.component}.{receiver.name}"
        if reading.ok:
            note.unlink(missing_ok=True)
        elif not note.exists():
            # A restart is over before the next check and needs no alert.
            private.write_text(note, "seen")
        elif note.read_text() == "seen":
            new.append((reading, note))
    return new


def _alerts(new: Sequence[tuple[Reading, Path]]) -> list[Alert]:
    names = ", ".join(reading.component for reading, _ in new)
    lines = tuple(f"{reading.component}: {reading.detail}" for reading, _ in new)
    return [Alert("unwell", f"{names} failing", lines=lines)] if new else []


_Inspect = Callable[[Settings], tuple[bool, str]]


def _read(component: Component, inspect: _Inspect, settings: Settings) -> Reading:
    try:
        ok, detail = inspect(settings)
    except PipelineError as error:
        ok, detail = False, str(error)
    except storage.ERRORS as error:
        ok, detail = False, str(records.in_use(settings).unreachable(error))
    return Reading(component, ok, detail)


def _target(settings: Settings) -> tuple[bool, str]:
    return _answers(Records(server(settings).target, "target"))


def _records(settings: Settings) -> tuple[bool, str]:
    return _answers(records.locate(settings, server(settings).target))


def _answers(found: Records) -> tuple[bool, str]:
    started = time.perf_counter()
    found.connect().close()
    return True, f"{found.shown} answers in {time.perf_counter() - started:.2f} s"


def _code(settings: Settings) -> tuple[bool, str]:
    if services.answers(settings.code_socket):
        return True, f"answers on {settings.code_socket}"
    return False, f"no server answers on {settings.code_socket}"


def _webserver(settings: Settings) -> tuple[bool, str]:
    host = "127.0.0.1" if settings.ui_host in _EVERYWHERE else settings.ui_host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.ui_port}/server_info"
    try:
        # No proxy, because the server is on this machine.
        with httpx.Client(timeout=_SECONDS, trust_env=False) as client:
            answer = client.get(url)
    except httpx.HTTPError as error:
        return False, f"{url} does not answer ({type(error).__name__})"
    return answer.is_success, f"{url} answers {answer.status_code}"


def _daemon(settings: Settings) -> tuple[bool, str]:
    with _instance(settings) as instance:
        beats = instance.get_daemon_heartbeats()
        wanted = instance.get_required_daemon_types()
    ages = {name: time.time() - beats[name].timestamp for name in wanted if name in beats}
    late = [name for name in wanted if ages.get(name, HEARTBEAT_SECONDS) >= HEARTBEAT_SECONDS]
    if late:
        return False, f"no heartbeat of {', '.join(late)} for {_ago(HEARTBEAT_SECONDS)}"
    return True, f"last heartbeat {_ago(max(ages.values()))} ago"


def _sync(settings: Settings) -> tuple[bool, str]:
    found = [_sync_of(each, settings) for each in settings.enabled]
    several = len(found) > 1
    detail = [
        f"{each.name}: {state}" if several else state
        for each, (_, state) in zip(settings.enabled, found, strict=True)
    ]
    return all(ok for ok, _ in found), "; ".join(detail)


def _sync_of(migration: Migration, settings: Settings) -> tuple[bool, str]:
    """Whether the last successful sync is at most two intervals of an active schedule old.

    If there was none since the schedule was switched on, that moment counts.
    """
    job = migration.named("sync")
    with _instance(settings) as instance:
        found = instance.all_instigator_state()
        states = [each for each in found if each.name == f"{job}_schedule"]
        succeeded = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
        newest = instance.get_run_records(succeeded, limit=1)
    if no := _rests(migration, settings):
        return True, f"paused: {no[0].lower()}{no[1:]}"
    running = [state for state in states if state.is_running]
    if not running:
        schedule = "has not ticked yet" if settings.sync_on and not states else "is off"
        return True, f"the schedule {schedule}"
    started = (getattr(state.instigator_data, "start_timestamp", None) for state in running)
    since = max([moment for moment in started if moment] + [run.end_time or 0 for run in newest])
    limit = 2 * schedules.interval(settings.sync_cron)
    age = time.time() - since
    what = "the last successful sync ended" if newest else "no sync has succeeded since the start"
    detail = f"{what}, {_ago(age)} ago; the limit is {_ago(limit.total_seconds())}"
    return age <= limit.total_seconds(), detail


def _rests(migration: Migration, settings: Settings) -> str | None:
    """Why syncs have ended, as a sentence; None if they go on."""
    found = server(settings)
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        return states.why_not_following(target, migration.name)


def _disk(settings: Settings) -> tuple[bool, str]:
    home = settings.pipeline_home
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    sources = [settings.source_path(each) for each in settings.enabled]
    read = sum(source.stat().st_size for source in sources if source.exists())
    needed, free = round(read * 1.1) + SPARE_BYTES, shutil.disk_usage(existing).free
    detail = f"{existing} has {size(free)} free; a run needs {size(needed)}"
    return free >= needed, detail


def _instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance, without creating its tables.

    Raises:
        TargetError: there are none.
    """
    found = records.locate(settings, server(settings).target)
    storage.export_environment(found, settings)
    private.folder(settings.dagster_files)
    with (
        closing(found.connect()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SELECT {records.TABLES_EXIST}")
        if cursor.fetchone() != (True,):
            raise TargetError(
                f"{found.shown} has no record of runs", remedy="Start the daemon first"
            )
    return dg.DagsterInstance.get()


def _ago(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


_INSPECTIONS: dict[Component, _Inspect] = {
    Component.TARGET: _target,
    Component.RECORDS: _records,
    Component.CODE: _code,
    Component.WEBSERVER: _webserver,
    Component.DAEMON: _daemon,
    Component.SYNC: _sync,
    Component.DISK: _disk,
}
