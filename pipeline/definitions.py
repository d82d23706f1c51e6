"""The only wiring: what Dagster loads."""

from collections.abc import Iterator

import dagster as dg

from pipeline import jobs, private, settings, ticks
from pipeline.alerts.sensors import alert_sensors
from pipeline.assets.anki import embeddings_spec, following_assets, following_checks
from pipeline.assets.backup import backup_assets
from pipeline.assets.cutover import anki_consistent, cutover_asset, realtime_arrives
from pipeline.assets.doctor import doctor_check
from pipeline.assets.housekeeping import housekeeping_asset
from pipeline.assets.plan import plan_asset
from pipeline.assets.realtime import realtime_asset, retention_asset
from pipeline.assets.search import search_asset
from pipeline.assets.standing import table_checks
from pipeline.assets.tables import table_assets
from pipeline.migrations import CONTENT, SPACES, Migration
from pipeline.resources import AnkiCollection, Application, SourceDatabase, TargetDatabase
from pipeline.tables import content, events

_OPERATIONS = "operations"
_settings = settings.load()
# Processes that Dagster starts by itself come here first.
private.guard_process()
_housekeeping = housekeeping_asset(group=_OPERATIONS, owners=_settings.enabled[0].owners)


def _migration(migration: Migration) -> dg.Definitions:
    """What every migration has, and what hangs on this one."""
    plan, doctor = plan_asset(migration), doctor_check(migration)
    moves = table_assets(migration, every=ticks.interval(_settings.sync_cron))
    standing = table_checks(migration)
    backup = backup_assets(migration, group=_OPERATIONS)
    beside = _BESIDE[migration]
    cutover = cutover_asset(migration, group=_OPERATIONS, further=_GATE[migration])
    verify = jobs.verify(migration, standing)
    sync = jobs.sync(migration, moves, standing, [*beside, _housekeeping])
    return dg.Definitions(
        assets=[plan, *moves, *beside, backup, cutover],
        asset_checks=[doctor, *standing],
        jobs=[
            jobs.doctor(migration, doctor),
            jobs.plan(migration, plan, doctor),
            jobs.migrate(migration, moves, standing),
            sync,
            jobs.backup(migration, backup),
            jobs.redrive(migration, moves, standing),
            verify,
            jobs.cutover(migration, cutover),
        ],
        schedules=[
            ticks.schedule(
                sync,
                _settings.sync_cron,
                setting="SYNC_CRON",
                follows=migration,
                on=_settings.sync_on,
            ),
            ticks.schedule(verify, _settings.verify_cron, setting="VERIFY_CRON", follows=migration),
        ],
        sensors=[ticks.source_sensor(sync, migration, on=_settings.sync_on)],
    )


_search = search_asset(
    [content.learning_content, content.content_fragments],
    group=CONTENT.name,
    owners=CONTENT.owners,
)


_BESIDE = {CONTENT: [_search], SPACES: list[dg.AssetsDefinition]()}
"""What is kept beside the tables of a migration, and made after each sync."""


def _following() -> dg.Definitions:
    """Anki, which follows the contents."""
    notes = following_assets(CONTENT.tables, group="anki", owners=CONTENT.owners)
    across = following_checks()
    sync = jobs.anki_sync(notes, across)
    return dg.Definitions(
        assets=[notes, embeddings_spec(group="anki")],
        asset_checks=across,
        jobs=[sync, jobs.anki_check(across)],
        schedules=[ticks.schedule(sync, _settings.anki.cron, setting="ANKI_CRON")],
    )


def _telling() -> dg.Definitions:
    """Realtime, which tells what changes in the spaces."""
    realtime = realtime_asset(
        SPACES.metadata,
        group="realtime",
        owners=SPACES.owners,
        deps=[table.name for table in SPACES.tables if events.of_table(table)],
    )
    retention = retention_asset(group="realtime", owners=SPACES.owners)
    feed = jobs.feed(retention)
    return dg.Definitions(
        assets=[realtime, retention],
        jobs=[jobs.realtime(realtime), feed],
        schedules=[ticks.schedule(feed, jobs.FEED_CRON, setting="SCHEDULE_ZONE")],
    )


_GATE = {CONTENT: [anki_consistent], SPACES: [realtime_arrives]}
"""What the gate of a cut-over asks of what hangs on a migration."""

_HANGING = {CONTENT: _following, SPACES: _telling}
"""What hangs on a migration."""


def _parts() -> Iterator[dg.Definitions]:
    for migration in _settings.enabled:
        yield _migration(migration)
        yield _HANGING[migration]()
    yield dg.Definitions(
        assets=[_housekeeping],
        sensors=alert_sensors(_settings),
        resources={
            "source": SourceDatabase(),
            "target": TargetDatabase(),
            "application": Application(),
            "anki": AnkiCollection(),
        },
        executor=dg.in_process_executor,
    )


defs = dg.Definitions.merge(*_parts())
