"""Retention of run history, so that frequent schedules do not fill the disk.

The newest runs of each job are kept. Older runs are deleted with their events, check results,
ledger entries and evidence, a bounded number with every sync.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster_postgres import PostgresRunStorage

from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.core.errors import PipelineError
from pipeline.orchestration.common import checks, retries
from pipeline.orchestration.common.resources import TargetDatabase
from pipeline.orchestration.instance.retrying_storage import again
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
SELECT run_id FROM ended WHERE number > :keep AND run_id NOT IN (SELECT run_id FROM telling)
  ORDER BY id LIMIT :at_once
"""
"""Runs beyond the limit, except those with the latest result of an asset or a check."""
_FORGET = "DELETE FROM dagster.asset_check_executions WHERE run_id = ANY(:runs) RETURNING run_id"
"""Deletes what Dagster's own deletion of a run leaves behind."""
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = {schema} AND c.relkind = 'r'
"""


@dataclass(frozen=True)
class Kept:
    """The outcome of housekeeping.

    Attributes:
        runs: number of runs that are kept.
        forgotten: number of runs that were deleted.
        storage_bytes: size of Dagster's tables; 0 if they are not in PostgreSQL.
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
    """Delete runs that are older than the newest runs of each job.

    Dagster's records may be in another database than the target.
    """
    storage = instance.run_storage
    records = storage if isinstance(storage, PostgresRunStorage) else None
    found = records and _ask(records, _OUTDATED, keep=loaded.keep_runs, at_once=AT_ONCE)
    outdated = [run_id for (run_id,) in found or ()]
    for run_id in outdated:
        instance.delete_run(run_id)
        for folder in (loaded.reports, loaded.dagster_files, loaded.dagster_files / "storage"):
            shutil.rmtree(folder / run_id, ignore_errors=True)
    if outdated and records:
        _ask(records, _FORGET, runs=outdated)
        _forget_evidence(target, outdated)
    size = _ask(records, _SIZE.format(schema=":schema"), schema="dagster") if records else [(0,)]
    return Kept(
        instance.get_runs_count(),
        len(outdated),
        int(size[0][0]),
        int(target.value(_SIZE.format(schema="$1"), ("migration",))),
    )


@again
def _ask(records: PostgresRunStorage, query: str, **values: object) -> list[Any]:
    """Execute a statement in the database of Dagster's records."""
    with records.connect() as connection:
        return list(connection.execute(sa.text(query), values))


def _forget_evidence(target: Target, runs: list[str]) -> None:
    if target.value("SELECT to_regclass('migration.evidence') IS NOT NULL"):
        target.rows("DELETE FROM migration.evidence WHERE run_id = ANY($1) RETURNING 1", (runs,))
