"""The step that verifies the committed rows of a table."""

import zlib
from collections.abc import Iterator

import dagster as dg
import sqlalchemy as sa

from pipeline.config import environment, settings
from pipeline.core import progress
from pipeline.core.errors import PipelineError
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import check_results
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.orchestration.common import checks, evidence, retries, verifications
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.orchestration.common.run_options import RunOptions


def verify(
    context: dg.AssetExecutionContext,
    table: sa.Table,
    migration: Migration,
    *,
    options: RunOptions,
    source: SourceDatabase,
    target: TargetDatabase,
) -> Iterator[dg.AssetCheckResult]:
    """Make the selected checks of what is committed; only their results are written.

    Raises:
        dg.Failure: a check could not be made, or failed with the severity error.
        dg.RetryRequested: the connection was lost; another attempt may succeed.
    """
    address, run_id = migration.address, context.run.run_id
    try:
        loaded = settings.load()
        seed = zlib.crc32(run_id.encode()) if loaded.verify_seed is None else loaded.verify_seed
        # First the lock, then the copy, so that no move comes between them.
        session = target.open()
        target.require_following(migration)
        policies = loaded.policies(migration)
        views = source.views(migration, run_id=run_id)
        opened = views.copy(migration.tables, target=session, policies=policies)
        with progress.waiting(f"{table.name}, verify"), session.read_only():
            found = verify_table(
                prepare(table, opened, policies),
                source=opened,
                target=session,
                sample=Sample(round(loaded.verify_mib * 2**20), seed, witness_all=options.deep),
                only={key.name for key in context.selected_asset_check_keys},
                on_progress=progress.reporter(context.log),
            )
        evidence.save_part(context, evidence.of_checks(table.name, found, address=address))
    except PipelineError as error:
        retries.raise_retry_if_transient(context, error.for_migration(address), target)
        evidence.save_failure(context, table.name, error, migration=migration)
        raise checks.failure(error, migration) from error
    results = checks.results(table.name, found, address=address)
    shown_target = environment.server(loaded).target_shown
    yield from verifications.made_now(results, run_id=run_id, target=shown_target)
    try:
        check_results.write(session, table.name, found, run_id=run_id, verification=True)
    except PipelineError as error:
        # Without the results, gates would go by older ones.
        raise checks.failure(error, migration) from error
    failed = [check.name for check in found if check.blocking and not check.passed]
    if failed:
        raise dg.Failure(f"{table.name} is not proven: {', '.join(failed)} failed.")
