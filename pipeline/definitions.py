"""The only wiring: what Dagster loads."""

import dagster as dg

from pipeline import jobs, settings, ticks
from pipeline.alerts.sensors import alert_sensors
from pipeline.assets.anki import embeddings_spec, following_assets, following_checks
from pipeline.assets.backup import backup_assets
from pipeline.assets.cutover import cutover_asset
from pipeline.assets.doctor import doctor_check
from pipeline.assets.housekeeping import housekeeping_asset
from pipeline.assets.plan import plan_asset
from pipeline.assets.realtime import realtime_asset, retention_asset
from pipeline.assets.search import search_asset
from pipeline.assets.standing import table_checks
from pipeline.assets.tables import table_assets
from pipeline.resources import AnkiCollection, Application, SourceDatabase, TargetDatabase
from pipeline.tables import content, ledger, spaces

_GROUP, _OPERATIONS, _OWNERS = "content", "operations", ["team:learning-content"]
_settings = settings.load()
_tables = content.metadata.sorted_tables
_plan = plan_asset(_tables, group=_GROUP, owners=_OWNERS)
_doctor = doctor_check(_tables)
_moves = table_assets(
    _tables, group=_GROUP, owners=_OWNERS, every=ticks.interval(_settings.sync_cron)
)
_search = search_asset(
    [content.learning_content, content.content_fragments], group=_GROUP, owners=_OWNERS
)
_housekeeping = housekeeping_asset(group=_OPERATIONS, owners=_OWNERS)
_backup = backup_assets(
    [*_tables, *ledger.metadata.sorted_tables], group=_OPERATIONS, owners=_OWNERS
)
_standing = table_checks(_tables)
_anki = following_assets(_tables, group="anki", owners=_OWNERS)
_embeddings = embeddings_spec(group="anki")
_across = following_checks()
_cutover = cutover_asset(_tables, group=_OPERATIONS, owners=_OWNERS)
_realtime = realtime_asset(spaces.metadata, group="realtime", owners=_OWNERS, deps=[])
_retention = retention_asset(group="realtime", owners=_OWNERS)
_feed = jobs.feed(_retention)
_verify = jobs.verify(_standing)
_sync = jobs.sync(_moves, _standing, [_search, _housekeeping])
_anki_sync = jobs.anki_sync(_anki, _across)

defs = dg.Definitions(
    assets=[
        _plan,
        *_moves,
        _search,
        _housekeeping,
        _backup,
        _cutover,
        _anki,
        _embeddings,
        _realtime,
        _retention,
    ],
    asset_checks=[_doctor, *_standing, *_across],
    jobs=[
        jobs.doctor(_doctor),
        jobs.plan(_plan, _doctor),
        jobs.migrate(_moves, _standing),
        _sync,
        jobs.backup(_backup),
        jobs.redrive(_moves, _standing),
        _verify,
        jobs.cutover(_cutover),
        _anki_sync,
        jobs.anki_check(_across),
        jobs.realtime(_realtime),
        _feed,
    ],
    schedules=[
        ticks.schedule(_sync, _settings.sync_cron, setting="SYNC_CRON", on=_settings.sync_on),
        ticks.schedule(_verify, _settings.verify_cron, setting="VERIFY_CRON"),
        ticks.schedule(_anki_sync, _settings.anki.cron, setting="ANKI_CRON", follows=False),
        ticks.schedule(_feed, jobs.FEED_CRON, setting="SCHEDULE_ZONE", follows=False),
    ],
    sensors=[ticks.source_sensor(_sync, on=_settings.sync_on), *alert_sensors(_settings)],
    resources={
        "source": SourceDatabase(),
        "target": TargetDatabase(),
        "application": Application(),
        "anki": AnkiCollection(),
    },
    executor=dg.in_process_executor,
)
