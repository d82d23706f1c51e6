"""The step that moves a table and reports its proof."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import sqlalchemy as sa

from pipeline.config import environment, settings
from pipeline.core import progress, proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult
from pipeline.core.place import PUBLIC
from pipeline.migrations.declaration import Migration
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.ledger import check_results, quarantine
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.proof.verification import check_schema, schema_questions
from pipeline.orchestration.common import (
    blob_sizes,
    checks,
    evidence,
    metadata,
    retries,
    verifications,
)
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.orchestration.common.run_options import RunOptions
from pipeline.postgres.driver.statements import Question


def move(
    context: dg.AssetExecutionContext,
    table: sa.Table,
    migration: Migration,
    *,
    options: RunOptions,
    source: SourceDatabase,
    target: TargetDatabase,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]
    """Move a table, and record the move, its checks and its evidence.

    Raises:
        dg.Failure: the move was rolled back, or its evidence cannot be written.
        dg.RetryRequested: the connection was lost; another attempt may succeed.
    """
    address, run_id = migration.address, context.run.run_id
    selected = context.job_def.asset_layer.selected_asset_keys
    moving = [each for each in migration.tables if dg.AssetKey(each.name) in selected]
    upcoming = source.upcoming(table, of=moving)
    try:
        scope, loaded = options.scope, settings.load()
        views = source.views(migration, run_id=run_id)
        how = MoveOptions(
            run_id,
            loaded.policies(migration),
            loaded.max_delete_share,
            quarantine_share=loaded.max_quarantine_share,
        )
        on_progress = progress.reporter(context.log)
        opened = target.engine(
            lambda session: engine.open_engine(
                [table, *upcoming],
                views,
                session,
                PUBLIC,
                scope,
                how,
                on_progress=on_progress,
                log=context.log.info,
            ),
            migration=migration,
        )
        # The whole source is described once, with the first table.
        first = table is migration.tables[0]
        undeclared = views.other_tables(migration.tables, stays=migration.stays) if first else []
        moved = opened.move(table, on_progress=on_progress)
        also: list[CheckResult] = []
        session = opened.idle
        added = quarantine.summary_question(table.name, by_run=run_id)
        asked: list[Question[Any]] = [metadata.preview_question(table), added]
        if evidence.with_blob_sizes(moved):
            asked += blob_sizes.questions(table)
        shown_target = environment.server(loaded).target_shown
        earlier = verifications.newest(context.instance, table.name, target=shown_target)
        chosen = proof.SCHEMA.name in {key.name for key in context.selected_asset_check_keys}
        # What was verified before may have changed, but a sync changes no schema.
        with_schema = chosen or (proof.SCHEMA.name in earlier and moved.strategy != "synced")
        if with_schema:
            asked += schema_questions(moved.mapping)
        with session.prefetched(*asked):
            if with_schema:
                with session.read_only():
                    also.append(check_schema(session, moved.mapping))
                check_results.write(session, table.name, also, run_id=run_id)
            part = evidence.of_move(moved, table, session, also=also, address=address)
            part = replace(part, undeclared=[each.shown for each in undeclared])
            preview, new = metadata.preview_of(session, table), session.answer(added)
        # A proof is reported whether or not its checks were selected.
        made = [
            *checks.results(table.name, moved.checks, address=address),
            *verifications.made_now(
                checks.results(table.name, also, address=address, only_warn=not chosen),
                run_id=run_id,
                target=shown_target,
            ),
        ]
        reported = list(verifications.after_move(made, earlier, moved, address=address))
        part = evidence.with_earlier_failures(part, reported)
        report = evidence.save_part(context, part)
    except PipelineError as error:
        retries.raise_retry_if_transient(context, error.for_migration(address), target)
        evidence.save_failure(context, table.name, error, migration=migration)
        if isinstance(error, ProofFailed):
            _record_failure(context, table, error, target)
            yield from checks.results(table.name, error.checks, address=address)
        raise checks.failure(error, migration) from error
    shown = metadata.of_move(moved, new, preview=preview, report=report)
    shown |= metadata.of_undeclared(undeclared)
    yield dg.MaterializeResult(
        asset_key=table.name,
        metadata={**shown, **verifications.summary(reported)},
        check_results=reported,
    )


def _record_failure(
    context: dg.AssetExecutionContext, table: sa.Table, error: ProofFailed, target: TargetDatabase
) -> None:
    """Store the results of a proof whose transaction was rolled back."""
    try:
        run_id = context.run.run_id
        check_results.write(target.open(), table.name, error.checks, run_id=run_id)
    except PipelineError as lost:
        # The failed proof is the error to report.
        context.log.warning(f"The results of the checks could not be stored: {lost}")
