"""One factory: a declared table becomes the asset that moves it.

Materializing the asset moves the table: it is made equal to the source's table and proven in one
transaction. The checks that gate it are evaluated inside that transaction; when one fails, the
table is rolled back, the asset is not materialized and its children do not run. Moving a table
twice changes nothing the second time.
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import sqlalchemy as sa

from pipeline import checks, evidence, metadata, progress, settings
from pipeline.move.errors import PipelineError
from pipeline.move.mover import Mover
from pipeline.move.plan import plan_tables
from pipeline.move.verify import ProofFailed
from pipeline.resources import SourceDatabase, TargetDatabase


def table_assets(
    tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> list[dg.AssetsDefinition]:
    """The assets that move these tables, parents before children."""
    return [_table_asset(table, tables, group=group, owners=owners) for table in tables]


def _table_asset(
    table: sa.Table, tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> dg.AssetsDefinition:
    parents = sorted({key.column.table.name for key in table.foreign_keys} - {table.name})

    @dg.asset(
        name=table.name,
        deps=parents,
        group_name=group,
        kinds={"sqlite", "postgres", "table"},
        owners=list(owners),
        description=str(table.info["description"]),
        metadata=metadata.declared(table),
        check_specs=checks.specs(table),
    )
    def moved(
        context: dg.AssetExecutionContext, source: SourceDatabase, target: TargetDatabase
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]
        selected = _selected(context, tables)
        planned = [each.name for each in selected]
        try:
            mover = _mover(context, selected, source, target)
            move = mover.move(
                table,
                upcoming=selected[selected.index(table) + 1 :],
                on_progress=progress.reporter(context.log),
            )
        except PipelineError as error:
            evidence.leave_failure(context, table.name, error, planned=planned)
            if isinstance(error, ProofFailed):
                yield from checks.results(table.name, error.checks)
            raise checks.failure(error) from error
        part = evidence.of_move(move, table, mover.idle)
        report = evidence.leave(context, part, planned=planned)
        yield dg.MaterializeResult(
            metadata=metadata.of_move(
                move, preview=metadata.preview_of(mover.idle, table), report=report
            ),
            check_results=checks.results(table.name, move.checks),
        )

    return moved


def plan_asset(
    tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """The asset that tells what moving these tables would do."""

    # An asset's own step would bear its name, which the job of that name has already.
    @dg.multi_asset(
        name="make_plan",
        specs=[
            dg.AssetSpec(
                "plan",
                group_name=group,
                kinds={"sqlite", "postgres"},
                owners=list(owners),
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
            opened = source.open(tables, target=session, run_id=context.run.run_id)
            policies = settings.load().policies
            plans = plan_tables(tables, source=opened, target=session, policies=policies)
        except PipelineError as error:
            raise checks.failure(error) from error
        return dg.MaterializeResult(metadata=metadata.of_plan(plans))

    return plan


def _mover(
    context: dg.AssetExecutionContext,
    tables: Sequence[sa.Table],
    source: SourceDatabase,
    target: TargetDatabase,
) -> Mover:
    # First the lock, then the copy: who waits for another run must not move an older copy.
    session, run_id = target.open(), context.run.run_id
    opened = source.open(tables, target=session, run_id=run_id)
    return target.mover(opened, run_id=run_id)


def _selected(context: dg.AssetExecutionContext, tables: Sequence[sa.Table]) -> list[sa.Table]:
    """Those of the tables that this run moves."""
    selected = context.run.asset_selection
    # None or nothing selected means the whole job.
    return [table for table in tables if not selected or dg.AssetKey(table.name) in selected]
