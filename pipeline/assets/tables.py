"""One factory: a declared table becomes the asset that moves it.

Materializing the asset moves the table: it is made equal to the source's table and proven in one
transaction. The checks that gate it are evaluated inside that transaction; when one fails, the
table is rolled back, the asset is not materialized and its children do not run. Moving a table
twice changes nothing the second time. Where the run's configuration says so, only what changed in
the source since it was read last is looked at, if that can be known, or only a subset is moved.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from pipeline import checks, evidence, metadata, progress
from pipeline.assets import attempts
from pipeline.migrations.declaration import Migration
from pipeline.move.errors import PipelineError, SettingsError
from pipeline.move.mover import Mover
from pipeline.move.scope import Scope, family
from pipeline.move.subset import SubsetMover
from pipeline.move.sync import Syncer, why_whole
from pipeline.move.target import Target
from pipeline.move.transaction import TableMover
from pipeline.move.verify import ProofFailed
from pipeline.resources import MakeMover, SourceDatabase, TargetDatabase
from pipeline.settings import Settings


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
    def scope(self) -> Scope | None:
        """The subset that moves, None for everything.

        Raises:
            SettingsError: no subset can be meant.
        """
        scope = Scope.of(self.only_content, self.limit)
        if scope is not None and (self.only_changes or self.retry_rejected):
            raise SettingsError(
                "A sync has no subset, and neither has a redrive",
                remedy="Leave out only_changes and retry_rejected, or only_content and limit",
            )
        return scope


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
        description=str(table.info["description"]),
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
        selected = _selected(context, migration.tables)
        planned = [each.name for each in selected]
        upcoming = source.upcoming(table, of=selected)
        try:
            scope = config.scope
            if scope is not None:
                make = _subset_mover(context, selected, source, scope)
            elif config.only_changes:
                make = _syncer(context, selected, source, config)
            else:
                make = _mover(context, selected, source)
            mover = target.mover(make, migration=migration, way=str(config))
            move = mover.move(
                table,
                upcoming=upcoming,
                on_progress=progress.reporter(context.log),
            )
            if (scope or config.only_changes) and not upcoming:
                # While the live file is pinned, an application without WAL cannot commit.
                source.release(selected)
            part = evidence.of_move(move, table, mover.idle, address=address)
            preview = metadata.preview_of(mover.idle, table)
            report = evidence.leave(context, part, planned=planned)
        except PipelineError as error:
            attempts.try_again(context, error.addressed(address), target)
            evidence.leave_failure(context, table.name, error, migration=migration, planned=planned)
            if isinstance(error, ProofFailed):
                yield from checks.results(table.name, error.checks, address=address)
            raise checks.failure(error, migration) from error
        yield dg.MaterializeResult(
            metadata=metadata.of_move(move, preview=preview, report=report),
            check_results=checks.results(table.name, move.checks, address=address),
        )

    return moved


def _mover(
    context: dg.AssetExecutionContext, tables: Sequence[sa.Table], source: SourceDatabase
) -> MakeMover:
    """What moves tables as a whole."""

    @contextlib.contextmanager
    def make(session: Target, loaded: Settings) -> Iterator[TableMover]:
        # First the lock, then the copy: who waits for another run must not move an older copy.
        run_id = context.run.run_id
        opened = source.open(tables, target=session, run_id=run_id)
        share, policies = loaded.max_delete_share, loaded.policies(loaded.registry.of(tables))
        with Mover.over(
            opened, session, run_id=run_id, delete_share=share, policies=policies
        ) as mover:
            yield mover

    return make


def _subset_mover(
    context: dg.AssetExecutionContext,
    tables: Sequence[sa.Table],
    source: SourceDatabase,
    scope: Scope,
) -> MakeMover:
    """What moves a subset of tables."""

    @contextlib.contextmanager
    def make(session: Target, loaded: Settings) -> Iterator[TableMover]:
        run_id = context.run.run_id
        yield SubsetMover(
            source.pin(family(tables), run_id=run_id),
            session,
            scope,
            run_id=run_id,
            delete_share=loaded.max_delete_share,
            policies=loaded.policies(loaded.registry.of(tables)),
        )

    return make


def _syncer(
    context: dg.AssetExecutionContext,
    tables: Sequence[sa.Table],
    source: SourceDatabase,
    config: MoveConfig,
) -> MakeMover:
    """What moves changes of tables, or all of them where these cannot be known."""

    @contextlib.contextmanager
    def make(session: Target, loaded: Settings) -> Iterator[TableMover]:
        run_id, policies = context.run.run_id, loaded.policies(loaded.registry.of(tables))
        if source.copied(tables):
            # This run looks at every value already.
            with _mover(context, tables, source)(session, loaded) as mover:
                yield mover
            return
        live = source.pin(tables, run_id=run_id)
        syncer = Syncer(
            live,
            session,
            run_id=run_id,
            delete_share=loaded.max_delete_share,
            policies=policies,
            retry_rejected=config.retry_rejected,
        )
        whole = why_whole(tables, live=live, target=session, policies=policies)
        whole = whole or syncer.look(tables, on_progress=progress.reporter(context.log))
        if whole is None:
            yield syncer
        else:
            context.log.info(f"Every value is looked at, because {whole}.")
            source.release(tables)
            with _mover(context, tables, source)(session, loaded) as mover:
                yield mover

    return make


def _selected(context: dg.AssetExecutionContext, tables: Sequence[sa.Table]) -> list[sa.Table]:
    """Those of the tables that this run moves."""
    selected = context.job_def.asset_layer.selected_asset_keys
    return [table for table in tables if dg.AssetKey(table.name) in selected]
