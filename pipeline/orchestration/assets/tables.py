"""One factory: a declared table becomes the asset that moves it.

Materializing the asset moves the table: it is made equal to the source's table and proven in one
transaction. The checks that gate it are evaluated inside that transaction; when one fails, the
table is rolled back, the asset is not materialized and its children do not run. Moving a table
twice changes nothing the second time. Where the run's configuration says so, only what changed in
the source since it was read last is looked at, if that can be known, or only a subset is moved.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from pipeline.config import settings
from pipeline.core import progress
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.core.place import PUBLIC
from pipeline.declared.rules import TableRules
from pipeline.migrations.declaration import Migration
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.run.scope import Changes, Everything, Scope, Subset
from pipeline.orchestration.assets import retries
from pipeline.orchestration.common import checks, evidence, metadata
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase


class MoveConfig(dg.Config):
    """How a table is moved."""

    only_changes: bool = Field(
        default=False,
        description=(
            "Look only at what changed in the source since it was read last; where that cannot be"
            " known, every value is looked at all the same."
        ),
    )
    retry_rejected: bool = Field(
        default=False,
        description="Try rows in quarantine again even if the source was not written since.",
    )
    only_content: list[int] = Field(
        default=[],
        description=(
            "Move only the rows of the root table with these ids, and what belongs to them; all"
            " tables of a run need the same ones."
        ),
    )
    limit: int | None = Field(
        default=None,
        description="Move only so many first rows of the root table, and what belongs to them.",
    )

    @property
    def scope(self) -> Scope:
        """Which rows move.

        Raises:
            SettingsError: no subset can be meant.
        """
        subset = Subset.of(self.only_content, self.limit)
        if subset is not None and (self.only_changes or self.retry_rejected):
            raise SettingsError(
                "A sync has no subset, and neither has a redrive",
                remedy="Leave out only_changes and retry_rejected, or only_content and limit",
            )
        if subset is not None:
            return subset
        return Changes(self.retry_rejected) if self.only_changes else Everything()


def run_config(names: Iterable[str], config: MoveConfig) -> dict[str, object]:
    """The part of a run's configuration that says how these tables are moved."""
    return {"ops": {name: {"config": config.model_dump()} for name in names}}


def table_assets(migration: Migration, *, every: timedelta) -> list[dg.AssetsDefinition]:
    """The assets that move the tables of a migration, parents before children.

    Args:
        migration: what moves.
        every: how often the target is meant to follow the source.
    """
    return [_table_asset(table, migration, every=every) for table in migration.tables]


def _table_asset(table: sa.Table, migration: Migration, *, every: timedelta) -> dg.AssetsDefinition:
    address = migration.address
    parents = sorted({key.column.table.name for key in table.foreign_keys} - {table.name})

    @dg.asset(
        name=table.name,
        deps=parents,
        group_name=migration.name,
        kinds={"sqlite", "postgres", "table"},
        owners=list(migration.owners),
        description=TableRules.of(table).description,
        metadata=metadata.declared(table),
        check_specs=checks.specs(table),
        # One tick may fail, or be skipped while a longer run is under way.
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=2 * every, fail_window=4 * every
        ),
    )
    def moved(
        context: dg.AssetExecutionContext,
        config: MoveConfig,
        source: SourceDatabase,
        target: TargetDatabase,
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]
        run_id, selected = context.run.run_id, _selected(context, migration.tables)
        planned = [each.name for each in selected]
        upcoming = source.upcoming(table, of=selected)
        try:
            scope = config.scope
            views, loaded = source.views(migration, run_id=run_id), settings.load()
            options = MoveOptions(run_id, loaded.policies(migration), loaded.max_delete_share)
            on_progress = progress.reporter(context.log)
            moving = target.engine(
                lambda session: engine.opened(
                    [table, *upcoming],
                    views,
                    session,
                    PUBLIC,
                    scope,
                    options,
                    on_progress=on_progress,
                    log=context.log.info,
                ),
                migration=migration,
                strategy=str(config),
            )
            move = moving.move(table, on_progress=on_progress)
            part = evidence.of_move(move, table, moving.idle, address=address)
            preview = metadata.preview_of(moving.idle, table)
            report = evidence.leave(context, part, planned=planned)
        except PipelineError as error:
            retries.try_again(context, error.addressed(address), target)
            evidence.leave_failure(context, table.name, error, migration=migration, planned=planned)
            if isinstance(error, ProofFailed):
                yield from checks.results(table.name, error.checks, address=address)
            raise checks.failure(error, migration) from error
        yield dg.MaterializeResult(
            metadata=metadata.of_move(move, preview=preview, report=report),
            check_results=checks.results(table.name, move.checks, address=address),
        )

    return moved


def _selected(context: dg.AssetExecutionContext, tables: Sequence[sa.Table]) -> list[sa.Table]:
    """Those of the tables that this run moves."""
    selected = context.job_def.asset_layer.selected_asset_keys
    return [table for table in tables if dg.AssetKey(table.name) in selected]
