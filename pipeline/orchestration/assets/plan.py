"""The assets that look before a move: what the source holds, and what a move would do."""

import dagster as dg

from pipeline.config import environment, settings
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import check_results
from pipeline.move.ledger.watermarks import common_rules_digest
from pipeline.move.run.disk_space import TargetDisk
from pipeline.move.run.plan import plan_tables
from pipeline.orchestration.common import checks, metadata, retries
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.reporting import census_page
from pipeline.scaffold.census import of_migration

PLAN, STEP = "plan", "make_plan"
CENSUS, SURVEY = "census", "make_census"


def census_asset(migration: Migration) -> dg.AssetsDefinition:
    """The asset that reads every value of the source and compares it with the declaration."""

    # The step of an asset has its name, which the job already has.
    @dg.multi_asset(
        name=migration.named(SURVEY),
        specs=[
            dg.AssetSpec(
                migration.named(CENSUS),
                group_name=migration.name,
                kinds={"sqlite"},
                owners=list(migration.owners),
                description=(
                    "What the source holds, column by column: what was found, the declared type,"
                    " examples, and what a person should look at. Only the source is read."
                ),
            )
        ],
    )
    def census(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        run_id, loaded = context.run.run_id, settings.load()
        try:
            found = of_migration(loaded, migration)
            page = census_page.write(loaded.reports / run_id, found, run_id=run_id)
        except PipelineError as error:
            error.for_migration(migration.address)
            raise checks.failure(error, migration) from error
        return dg.MaterializeResult(metadata=metadata.of_census(found, page))

    return census


def plan_asset(migration: Migration) -> dg.AssetsDefinition:
    """The asset that predicts what moving the tables of a migration would do."""
    tables, address = migration.tables, migration.address

    # The step of an asset has its name, which the job already has.
    @dg.multi_asset(
        name=migration.named(STEP),
        specs=[
            dg.AssetSpec(
                migration.named(PLAN),
                group_name=migration.name,
                kinds={"sqlite", "postgres"},
                owners=list(migration.owners),
                description=(
                    "What a move would do, without changing a table: rows and bytes, the"
                    " contents of columns, rejected rows, lossy conversions, drift, and the"
                    " expected time."
                ),
            )
        ],
    )
    def plan(
        context: dg.AssetExecutionContext, source: SourceDatabase, target: TargetDatabase
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            session = target.open()
            loaded = settings.load()
            policies = loaded.policies(migration)
            views = source.views(migration, run_id=context.run.run_id)
            opened = views.copy(tables, target=session, policies=policies)
            plans = plan_tables(
                tables,
                source=opened,
                target=session,
                policies=policies,
                quarantine_share=loaded.max_quarantine_share,
            )
            undeclared = views.other_tables(tables, stays=migration.stays, count=True)
            rules = common_rules_digest(tables, opened, policies)
            planned = CheckResult(ledger.PLANNED, passed=True, blocking=True)
            run_id = context.run.run_id
            check_results.write(
                session, migration.named(PLAN), [planned], run_id=run_id, rules=rules
            )
            space = TargetDisk.of(session.rows, environment.server(loaded).target)
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error.for_migration(address), target)
            raise checks.failure(error, migration) from error
        return dg.MaterializeResult(
            metadata=metadata.of_plan(plans, rules, space, undeclared, policies)
        )

    return plan
