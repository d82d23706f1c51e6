"""What is remembered, and for how long: a schedule every few minutes must not fill the disk.

Of every job, so many of the newest runs are kept. Older ones go with their events, their check
results, their lines in the ledger and their evidence, a bounded number with every sync.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from pipeline import checks, settings
from pipeline.move.errors import PipelineError
from pipeline.move.target import Target
from pipeline.resources import TargetDatabase
from pipeline.settings import Settings

AT_ONCE = 50
"""Runs that are forgotten in one go; a schedule adds one at a time."""

_ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


@dataclass(frozen=True)
class Kept:
    """What housekeeping did.

    Attributes:
        runs: runs that are remembered.
        forgotten: runs that were forgotten.
        storage_bytes: size of Dagster's tables; 0 where they are not in the target.
        ledger_bytes: size of the ledger.
    """

    runs: int
    forgotten: int
    storage_bytes: int
    ledger_bytes: int


def housekeeping_asset(*, group: str, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset that keeps what is remembered small."""

    @dg.asset(
        name="housekeeping",
        group_name=group,
        kinds={"postgres"},
        owners=list(owners),
        description=(
            "Forget runs that are older than the newest KEEP_RUNS of their job, with their events,"
            " check results, lines in the ledger and evidence."
        ),
    )
    def kept(context: dg.AssetExecutionContext, target: TargetDatabase) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            found = tidy(context.instance, target.open(), settings.load())
        except PipelineError as error:
            raise checks.failure(error) from error
        return dg.MaterializeResult(
            metadata={
                "runs": dg.MetadataValue.int(found.runs),
                "forgotten": dg.MetadataValue.int(found.forgotten),
                "storage_bytes": dg.MetadataValue.int(found.storage_bytes),
                "ledger_bytes": dg.MetadataValue.int(found.ledger_bytes),
            }
        )

    return kept


def tidy(instance: dg.DagsterInstance, target: Target, loaded: Settings) -> Kept:
    """Forget what is older than the newest runs of each job."""
    outdated = _outdated(instance, keep=loaded.keep_runs)
    for run_id in outdated:
        instance.delete_run(run_id)
        shutil.rmtree(loaded.reports / run_id, ignore_errors=True)
    if outdated:
        _forget(target, outdated)
    return Kept(
        instance.get_runs_count(),
        len(outdated),
        _size(target, "dagster"),
        _size(target, "migration"),
    )


def _outdated(instance: dg.DagsterInstance, *, keep: int) -> list[str]:
    """The oldest of the ended runs that are too many, some of each job."""
    found: list[str] = []
    for job in sorted({run.job_name for run in instance.get_runs(limit=keep)}):
        ended = dg.RunsFilter(job_name=job, statuses=_ENDED)
        too_many = instance.get_runs_count(ended) - keep
        if too_many > 0:
            oldest = instance.get_run_records(
                ended, limit=min(too_many, AT_ONCE), order_by="id", ascending=True
            )
            found += [record.dagster_run.run_id for record in oldest]
    return found


def _forget(target: Target, runs: list[str]) -> None:
    """Delete what is kept by run elsewhere; Dagster itself leaves check results behind."""
    for table in ("dagster.asset_check_executions", "migration.evidence"):
        if target.value("SELECT to_regclass($1) IS NOT NULL", (table,)):
            target.rows(f"DELETE FROM {table} WHERE run_id = ANY($1) RETURNING 1", (runs,))


def _size(target: Target, schema: str) -> int:
    return int(
        target.value(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = $1 AND c.relkind = 'r'",
            (schema,),
        )
    )
