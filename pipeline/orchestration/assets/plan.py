"""The asset that tells what moves would do; its job is a dry run of ``migrate``."""

import dagster as dg

from pipeline.config import settings
from pipeline.core.errors import PipelineError
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger.watermarks import rules_of_all
from pipeline.move.run.plan import plan_tables
from pipeline.orchestration.common import checks, metadata
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase

PLAN, STEP = "plan", "make_plan"


def plan_asset(migration: Migration) -> dg.AssetsDefinition:
    """The asset that tells what moving the tables of a migration would do."""
    tables = migration.tables

    # An asset's own step would bear its name, which the job of that name has already.
    @dg.multi_asset(
        name=migration.named(STEP),
        specs=[
            dg.AssetSpec(
                migration.named(PLAN),
                group_name=migration.name,
                kinds={"sqlite", "postgres"},
                owners=list(migration.owners),
                description=(
                    "What a move would do, without touching the target: rows and bytes, what"
                    " columns hold, what would be rejected or lose something, drift, and how long"
                    " it would take."
                ),
            )
        ],
    )
    def plan(
        context: dg.AssetExecutionContext, source: SourceDatabase, target: TargetDatabase
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            session = target.open()
            opened = source.views(migration, run_id=context.run.run_id).copy(tables, target=session)
            policies = settings.load().policies(migration)
            plans = plan_tables(tables, source=opened, target=session, policies=policies)
            rules = rules_of_all(tables, opened, policies)
        except PipelineError as error:
            raise checks.failure(error, migration) from error
        return dg.MaterializeResult(metadata=metadata.of_plan(plans, rules))

    return plan
