"""One factory: a declared table becomes the asset checks that look at what is committed of it."""

import zlib
from collections.abc import Iterator, Sequence

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from pipeline.config import settings
from pipeline.core import progress
from pipeline.core.errors import PipelineError
from pipeline.cutover import states
from pipeline.migrations.declaration import Migration
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.orchestration.common import checks, evidence
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase


class VerifyConfig(dg.Config):
    """How a table is verified."""

    deep: bool = Field(
        default=False,
        description="Let the second witness see every row, not a sample.",
    )


def run_config(tables: Sequence[sa.Table], config: VerifyConfig) -> dict[str, dict[str, object]]:
    """Configuration of the steps that verify these tables, by name."""
    return {_step(table): config.model_dump() for table in tables}


def table_checks(migration: Migration) -> list[dg.AssetChecksDefinition]:
    """The checks of what is committed, one step for each table."""
    return [_table_checks(table, migration) for table in migration.tables]


def _table_checks(table: sa.Table, migration: Migration) -> dg.AssetChecksDefinition:
    tables, address = migration.tables, migration.address

    @dg.multi_asset_check(
        name=_step(table),
        specs=checks.standing_specs(table),
        can_subset=True,
        description=f"Hold what is committed of {table.name} against source and declaration.",
    )
    def verified(
        context: dg.AssetCheckExecutionContext,
        config: VerifyConfig,
        source: SourceDatabase,
        target: TargetDatabase,
    ) -> Iterator[dg.AssetCheckResult]:
        run_id = context.run.run_id
        try:
            loaded = settings.load()
            by_run = zlib.crc32(run_id.encode())
            seed = by_run if loaded.verify_seed is None else loaded.verify_seed
            # First the lock, then the copy, so that no move comes between them.
            session = target.open()
            states.require_following(session, migration.name)
            opened = source.views(migration, run_id=run_id).copy(tables, target=session)
            with session.read_only():
                found = verify_table(
                    prepare(table, opened, loaded.policies(migration)),
                    source=opened,
                    target=session,
                    sample=Sample(round(loaded.verify_mib * 2**20), seed, witness_all=config.deep),
                    only={
                        key.name.removeprefix(checks.STANDING)
                        for key in context.selected_asset_check_keys
                    },
                    on_progress=progress.reporter(context.log),
                )
            part = evidence.of_checks(table.name, found, address=address)
            evidence.leave(context, part, planned=_planned(context, tables))
        except PipelineError as error:
            planned = _planned(context, tables)
            evidence.leave_failure(context, table.name, error, migration=migration, planned=planned)
            raise checks.failure(error, migration) from error
        yield from checks.results(table.name, found, prefix=checks.STANDING, address=address)

    return verified


def _step(table: sa.Table) -> str:
    return f"verify_{table.name}"


def _planned(context: dg.AssetCheckExecutionContext, tables: Sequence[sa.Table]) -> list[str]:
    """Names of the tables of which this run makes any check."""
    selected = context.run.asset_check_selection
    checked = {key.asset_key.to_user_string() for key in selected or ()}
    return [table.name for table in tables if not checked or table.name in checked]
