"""Jobs: what can be launched."""

import dagster as dg

CONTENT = "content"
"""The group of the learning application's tables."""

migrate = dg.define_asset_job(
    "migrate",
    selection=dg.AssetSelection.groups(CONTENT),
    description=(
        "Move the four content tables from SQLite to PostgreSQL, parents first. Each table is one"
        " transaction that commits only when its proof holds. Running it again writes only what"
        " differs."
    ),
    # One process: a step of its own costs seconds, and all steps share one copy of the source.
    executor_def=dg.in_process_executor,
)
