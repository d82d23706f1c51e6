"""One asset for each declared table, with its checks.

Materializing the asset moves the table: the target's rows are made equal to the source's and
proven in one transaction. A failed blocking check rolls the table back; the asset is then not
materialized, and the tables that refer to it do not move. Moving a table a second time changes
nothing. A run that selects only checks moves nothing: it verifies the committed rows.
"""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import sqlalchemy as sa

from pipeline.core import progress
from pipeline.declared.rules import TableRules
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.assets.table_move import move
from pipeline.orchestration.assets.table_verification import verify
from pipeline.orchestration.common import checks, metadata
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.orchestration.common.run_options import RunOptions

Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult]  # type: ignore[type-arg]


def table_assets(migration: Migration, *, every: timedelta) -> list[dg.AssetsDefinition]:
    """The assets of a migration's tables, parents first.

    Args:
        migration: declares the tables.
        every: the interval of the sync schedule; an asset that is older than some of these
            intervals counts as stale.
    """
    return [_table_asset(table, migration, every=every) for table in migration.tables]


def _table_asset(table: sa.Table, migration: Migration, *, every: timedelta) -> dg.AssetsDefinition:
    parents = sorted({key.column.table.name for key in table.foreign_keys} - {table.name})

    @dg.multi_asset(
        name=table.name,
        specs=[
            dg.AssetSpec(
                table.name,
                deps=parents,
                group_name=migration.name,
                kinds={"sqlite", "postgres", "table"},
                owners=list(migration.owners),
                description=TableRules.of(table).description,
                metadata=metadata.declared(table),
                # One tick may fail, or be skipped while a longer run is under way.
                freshness_policy=dg.FreshnessPolicy.time_window(
                    warn_window=2 * every, fail_window=4 * every
                ),
            )
        ],
        check_specs=checks.specs(table),
        can_subset=True,
    )
    def move_or_verify(
        context: dg.AssetExecutionContext,
        options: RunOptions,
        source: SourceDatabase,
        target: TargetDatabase,
    ) -> Results:
        step = move if context.selected_asset_keys else verify
        with progress.logged_to(context.log):
            yield from step(
                context, table, migration, options=options, source=source, target=target
            )

    return move_or_verify
