"""The only wiring: what Dagster loads."""

import dagster as dg

from pipeline import jobs, settings
from pipeline.assets import plan_asset, table_assets
from pipeline.resources import SourceDatabase, TargetDatabase
from pipeline.standing import table_checks
from pipeline.tables import content

_GROUP, _OWNERS = "content", ["team:learning-content"]
_tables = content.metadata.sorted_tables
_plan = plan_asset(_tables, group=_GROUP, owners=_OWNERS)
_moves = table_assets(_tables, group=_GROUP, owners=_OWNERS)
_standing = table_checks(_tables)
_verify = jobs.verify(_standing)

defs = dg.Definitions(
    assets=[_plan, *_moves],
    asset_checks=_standing,
    jobs=[
        jobs.plan(_plan),
        jobs.migrate(_moves, _standing),
        jobs.redrive(_moves, _standing),
        _verify,
    ],
    schedules=[jobs.schedule(_verify, settings.load().verify_cron)],
    resources={"source": SourceDatabase(), "target": TargetDatabase()},
    executor=dg.in_process_executor,
)
