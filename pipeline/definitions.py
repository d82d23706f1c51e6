"""The only wiring: what Dagster loads."""

import dagster as dg

from pipeline import jobs, settings, ticks
from pipeline.assets import plan_asset, table_assets
from pipeline.housekeeping import housekeeping_asset
from pipeline.resources import SourceDatabase, TargetDatabase
from pipeline.standing import table_checks
from pipeline.tables import content

_GROUP, _OWNERS = "content", ["team:learning-content"]
_settings = settings.load()
_tables = content.metadata.sorted_tables
_plan = plan_asset(_tables, group=_GROUP, owners=_OWNERS)
_moves = table_assets(
    _tables, group=_GROUP, owners=_OWNERS, every=ticks.interval(_settings.sync_cron)
)
_housekeeping = housekeeping_asset(group=_GROUP, owners=_OWNERS)
_standing = table_checks(_tables)
_verify = jobs.verify(_standing)
_sync = jobs.sync(_moves, _standing, _housekeeping)

defs = dg.Definitions(
    assets=[_plan, *_moves, _housekeeping],
    asset_checks=_standing,
    jobs=[
        jobs.plan(_plan),
        jobs.migrate(_moves, _standing),
        _sync,
        jobs.redrive(_moves, _standing),
        _verify,
    ],
    schedules=[
        ticks.schedule(_sync, _settings.sync_cron, on=_settings.sync_on),
        ticks.schedule(_verify, _settings.verify_cron),
    ],
    sensors=[ticks.source_sensor(_sync, on=_settings.sync_on)],
    resources={"source": SourceDatabase(), "target": TargetDatabase()},
    executor=dg.in_process_executor,
)
