"""What Dagster loads: all assets, jobs, schedules, sensors and resources."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from pipeline.config import settings
from pipeline.core import private
from pipeline.migrations.declaration import Anki, Beside, Migration, Realtime, Search
from pipeline.orchestration import jobs, schedules
from pipeline.orchestration.alerts.sensors import alert_sensors
from pipeline.orchestration.assets.anki import embeddings_spec, following_assets, following_checks
from pipeline.orchestration.assets.backup import backup_assets
from pipeline.orchestration.assets.cutover import (
    Further,
    anki_consistent,
    cutover_asset,
    realtime_arrives,
)
from pipeline.orchestration.assets.doctor import doctor_check
from pipeline.orchestration.assets.housekeeping import housekeeping_asset
from pipeline.orchestration.assets.plan import census_asset, plan_asset
from pipeline.orchestration.assets.realtime import realtime_asset, retention_asset
from pipeline.orchestration.assets.search import search_asset
from pipeline.orchestration.assets.tables import table_assets
from pipeline.orchestration.common import run_options
from pipeline.orchestration.common.resources import (
    AnkiCollection,
    Application,
    SourceDatabase,
    TargetDatabase,
)

_OPERATIONS = "operations"
_settings = settings.load()
# Processes that Dagster starts import this module first.
private.guard_process()
_housekeeping = housekeeping_asset(group=_OPERATIONS, owners=_settings.enabled[0].owners)


@dataclass(frozen=True)
class _Part:
    """The definitions of an addition to a migration, such as search or Anki.

    Attributes:
        definitions: its assets, checks, jobs and schedules.
        after_sync: its assets that every sync updates.
        asked: its questions for the gate of a cut-over.
    """

    definitions: dg.Definitions
    after_sync: list[dg.AssetsDefinition] = field(default_factory=list)
    asked: list[Further] = field(default_factory=list)


def _migration(migration: Migration) -> Iterator[dg.Definitions]:
    """The definitions of a migration and of its additions."""
    parts = [_BUILT[type(each)](migration, each) for each in migration.beside]
    plan, doctor = plan_asset(migration), doctor_check(migration)
    census = census_asset(migration)
    moves = table_assets(migration, every=schedules.interval(_settings.sync_cron))
    backup = backup_assets(migration, group=_OPERATIONS)
    asked = [question for part in parts for question in part.asked]
    cutover = cutover_asset(migration, group=_OPERATIONS, further=asked)
    verify = jobs.verify(migration)
    after = [asset for part in parts for asset in part.after_sync]
    sync = jobs.sync(migration, [*after, _housekeeping])
    yield dg.Definitions(
        assets=[census, plan, *moves, backup, cutover],
        asset_checks=[doctor],
        jobs=[
            jobs.doctor(migration, doctor),
            jobs.census(migration, census),
            jobs.plan(migration, plan, doctor),
            jobs.migrate(migration),
            sync,
            jobs.backup(migration, backup),
            jobs.redrive(migration),
            verify,
            jobs.cutover(migration, cutover),
        ],
        schedules=[
            schedules.schedule(
                sync,
                _settings.sync_cron,
                setting="SYNC_CRON",
                follows=migration,
                on=_settings.sync_on,
            ),
            schedules.schedule(
                verify, _settings.verify_cron, setting="VERIFY_CRON", follows=migration
            ),
        ],
        sensors=[schedules.source_sensor(sync, migration, on=_settings.sync_on)],
    )
    yield from (part.definitions for part in parts)


def _search(migration: Migration, search: Search) -> _Part:
    """The indexes for search."""
    asset = search_asset(search.tables, group=migration.name, owners=migration.owners)
    return _Part(dg.Definitions(assets=[asset]), after_sync=[asset])


def _anki(migration: Migration, _: Anki) -> _Part:
    """Notes in Anki, with their cards and vectors in SQLite."""
    notes = following_assets(migration.tables, group="anki", owners=migration.owners)
    across = following_checks()
    sync = jobs.anki_sync(notes, across)
    definitions = dg.Definitions(
        assets=[notes, embeddings_spec(group="anki")],
        asset_checks=across,
        jobs=[sync, jobs.anki_check(across)],
        schedules=[schedules.schedule(sync, _settings.anki.cron, setting="ANKI_CRON")],
    )
    return _Part(definitions, asked=[anki_consistent])


def _realtime(migration: Migration, _: Realtime) -> _Part:
    """The feed of changes and the channels of Supabase Realtime."""
    realtime = realtime_asset(migration, group="realtime")
    retention = retention_asset(group="realtime", owners=migration.owners)
    feed = jobs.feed(retention)
    definitions = dg.Definitions(
        assets=[realtime, retention],
        jobs=[jobs.realtime(realtime), feed],
        schedules=[schedules.schedule(feed, jobs.FEED_CRON, setting="SCHEDULE_ZONE")],
    )
    return _Part(definitions, asked=[realtime_arrives])


_BUILT: dict[type[Beside], Callable[[Migration, Any], _Part]] = {
    Search: _search,
    Anki: _anki,
    Realtime: _realtime,
}
"""Builds the definitions of each kind of addition."""


def _parts() -> Iterator[dg.Definitions]:
    for migration in _settings.enabled:
        yield from _migration(migration)
    yield dg.Definitions(
        assets=[_housekeeping],
        sensors=alert_sensors(_settings),
        resources={
            **run_options.resource(),
            "source": SourceDatabase(),
            "target": TargetDatabase(),
            "application": Application(),
            "anki": AnkiCollection(),
        },
        executor=dg.in_process_executor,
    )


defs = dg.Definitions.merge(*_parts())
