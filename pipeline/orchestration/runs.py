"""Run a job in this process, recorded in Dagster's instance like any other run.

A run whose process was killed cannot record that. Every run is tagged with its process, and the
next run reports runs whose process no longer exists as failed.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from pipeline.config import records, settings
from pipeline.config.records import DAGSTER_OPTIONS
from pipeline.core.proof import MOVE_CHECKS
from pipeline.orchestration.common import checks
from pipeline.orchestration.definitions import defs
from pipeline.orchestration.instance import processes, storage
from pipeline.postgres.embedded import postmaster

_STATEMENT_MILLISECONDS = 60_000
_UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance with pooled connections.

    A run records some hundred events; without a pool each of them would open a connection. A
    connection that the server has closed is replaced before use.

    ``storage.ready`` comes first.

    Raises:
        TargetError: the server does not answer.
    """
    # Each listener that is added runs; a second one would repeat every check.
    if not sa.event.contains(QueuePool, "checkout", _ping):
        sa.event.listen(QueuePool, "checkout", _ping)
        sa.event.listen(sa.Engine, "handle_error", _give_up)
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(dg.DagsterInstance.get())
            opened.optimize_for_webserver(
                statement_timeout=_STATEMENT_MILLISECONDS, pool_recycle=3600, max_overflow=4
            )
        except storage.ServerEnded:
            raise
        except storage.ERRORS as error:
            raise records.in_use(settings.load()).unreachable(error) from None
        yield opened


def run(
    job_name: str,
    *,
    opened: dg.DagsterInstance,
    tables: Collection[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job to its end; the result says whether it succeeded.

    Args:
        job_name: the job.
        opened: Dagster's instance.
        tables: the assets to run; None for all of the job.
        config: replaces the job's own configuration.
    """
    _report_lost(opened)
    job = defs.resolve_job_def(job_name)
    chosen = dict(config if config is not None else job.run_config or {})
    if tables is not None:
        job = _only(job, tables)
    return job.execute_in_process(
        instance=opened,
        raise_on_error=False,
        run_config=chosen | _QUIET,
        tags=processes.tags(settings.load()),
    )


def _only(job: dg.JobDefinition, tables: Collection[str]) -> dg.JobDefinition:
    """A job of the same name that moves only some tables."""
    # A subset of the job itself would keep the configuration of its other steps.
    return dg.define_asset_job(
        job.name,
        selection=dg.AssetSelection.assets(*tables).without_checks()
        | dg.AssetSelection.checks(
            *(k for table in tables for k in checks.keys(table, MOVE_CHECKS))
        ),
        description=job.description,
        executor_def=dg.in_process_executor,
    ).resolve(asset_graph=defs.resolve_asset_graph(), resource_defs=job.resource_defs)


def _ping(connection: Any, *_: object) -> None:
    # The event reaches every pool of the process; only Dagster's need this.
    if not isinstance(connection, psycopg2.extensions.connection) or (
        DAGSTER_OPTIONS not in connection.info.options
    ):
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        raise sa.exc.DisconnectionError from error


def _give_up(context: sa.engine.ExceptionContext) -> None:
    """Fail at once if the embedded server has stopped; waiting would not restart it."""
    engine = context.engine
    if engine is None or context.connection is not None:
        return
    if DAGSTER_OPTIONS not in str(engine.url.query.get("options", "")):
        return
    loaded = settings.load()
    embedded = records.in_use(loaded).place == "embedded"
    if embedded and postmaster.find(loaded.server_data) is None:
        raise storage.ServerEnded from context.original_exception


def _report_lost(opened: dg.DagsterInstance) -> None:
    for under_way in opened.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        if processes.gone(under_way):
            opened.report_run_failed(under_way, "The process of this run no longer exists.")
