"""The only wiring: what Dagster loads."""

import dagster as dg

from pipeline import jobs
from pipeline.assets import table_assets
from pipeline.resources import SourceDatabase, TargetDatabase
from pipeline.tables import content

defs = dg.Definitions(
    assets=table_assets(
        content.metadata.sorted_tables, group=jobs.CONTENT, owners=["team:learning-content"]
    ),
    jobs=[jobs.migrate],
    resources={"source": SourceDatabase(), "target": TargetDatabase()},
    executor=dg.in_process_executor,
)
