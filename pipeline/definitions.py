"""The only wiring: what Dagster loads."""

import dagster as dg

from pipeline import checks, jobs, settings
from pipeline.assets import table_assets
from pipeline.resources import SourceDatabase, TargetDatabase
from pipeline.tables import content

_tables = content.metadata.sorted_tables
_moves = table_assets(_tables, group="content", owners=["team:learning-content"])
_standing = checks.standing(_tables)
_migrate = jobs.migrate(_moves, _standing)
_verify = jobs.verify(_standing)

defs = dg.Definitions(
    assets=_moves,
    asset_checks=_standing,
    jobs=[_migrate, _verify],
    schedules=[jobs.schedule(_verify, settings.load().verify_cron)],
    resources={"source": SourceDatabase(), "target": TargetDatabase()},
    executor=dg.in_process_executor,
)
