"""Retention of run history, so that frequent schedules do not fill the disk.

The newest runs of each job are kept. Older runs are deleted with their events, check results,
ledger entries and evidence, a bounded number with every sync.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.core.errors import PipelineError
from pipeline.orchestration.common import checks, retries
from pipeline.orchestration.common.resources import TargetDatabase
from pipeline.postgres.target import Target

AT_ONCE = 50
"""Maximum number of runs to delete at once; a schedule adds one at a time."""
_OUTDATED = """
WITH ended AS (
  SELECT id, run_id, row_number() OVER (PARTITION BY pipeline_name ORDER BY id DESC) AS number
    FROM dagster.runs WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')
), telling AS (
  SELECT last_run_id AS run_id FROM dagster.asset_keys WHERE last_run_id IS NOT NULL
  UNION SELECT run_id FROM (SELECT DISTINCT ON (asset_key, check_name) run_id
    FROM dagster.asset_check_executions WHERE run_id IS NOT NULL
    ORDER BY asset_key, check_name, id DESC) AS newest
)
SELECT run_id FROM ended WHERE number > $1::bigint AND run_id NOT IN (SELECT run_id FROM telling)
  ORDER BY id LIMIT $2::bigint
"""
"""Runs beyond the limit, except those with the latest result of an asset or a check."""


@dataclass(frozen=True)
class Kept:
    """The outcome of housekeeping.

    Attributes:
        runs: number of runs that are kept.
        forgotten: number of runs that were deleted.
        storage_bytes: size of Dagster's tables; 0 if they are not in the target.
        ledger_bytes: size of the ledger.
    """

    runs: int
    forgotten: int
    storage_bytes: int
    ledger_bytes: int


def housekeeping_asset(*, group: str, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset that limits the run history."""

    @dg.asset(
        name="housekeeping",
        group_name=group,
        kinds={"postgres"},
        owners=list(owners),
        description=(
            "Delete runs that are older than the newest KEEP_RUNS of their job, with their events,"
            " check results, ledger entries and evidence."
        ),
    )
    def kept(context: dg.AssetExecutionContext, target: TargetDatabase) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            found = tidy(context.instance, target.open(), settings.load())
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error, target)
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
    """Delete runs that are older than the newest runs of each job."""
    exists = target.value("SELECT to_regclass('dagster.asset_check_executions') IS NOT NULL")
    found = target.rows(_OUTDATED, (loaded.keep_runs, AT_ONCE)) if exists else []
    outdated = [run_id for (run_id,) in found]
    for run_id in outdated:
        instance.delete_run(run_id)
        for folder in (loaded.reports, loaded.dagster_files, loaded.dagster_files / "storage"):
            shutil.rmtree(folder / run_id, ignore_errors=True)
    if outdated:
        _forget(target, outdated)
    return Kept(
        instance.get_runs_count(),
        len(outdated),
        _size(target, "dagster"),
        _size(target, "migration"),
    )


def _forget(target: Target, runs: list[str]) -> None:
    """Delete entries of runs that Dagster's own deletion leaves behind."""
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
