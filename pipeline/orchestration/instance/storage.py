"""Where Dagster keeps its runs, events and schedules: schema ``dagster`` of the target."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import sqlalchemy as sa
from dagster_postgres.utils import DagsterPostgresException

from pipeline.config import environment
from pipeline.config.environment import Server
from pipeline.config.settings import DAGSTER_FILES, DAGSTER_URL, PROJECT, Settings, dagster_url
from pipeline.core import private
from pipeline.core.errors import SettingsError, TargetError, Transient
from pipeline.postgres import connections, session
from pipeline.postgres.embedded import postmaster


class ServerEnded(sa.exc.SQLAlchemyError):
    """The embedded server has stopped; Dagster does not retry this error."""


ERRORS = (psycopg2.Error, sa.exc.SQLAlchemyError, DagsterPostgresException)
"""Errors of Dagster's storage when the target is not available."""
_FIRST_USE = 0x646167737465  # "dagste"
_NAME = "pipeline start"
"""Name of the preparing sessions in pg_stat_activity."""
_PATIENT = session.stating(lock_timeout="0")
"""Creating Dagster's tables may take longer than the usual lock timeout."""
_OF_THE_ENVIRONMENT = ("PGTZ", "PGDATESTYLE", "PGGEQO")
"""Variables that libpq applies to a session even if its URL says otherwise."""
_DAGSTER_IS_THERE = (
    "SELECT to_regclass('dagster.runs') IS NOT NULL AND to_regclass('dagster.event_logs')"
    " IS NOT NULL AND to_regclass('dagster.instigators') IS NOT NULL"
)


def ready(settings: Settings, *, home: Path = PROJECT) -> Server:
    """Prepare everything that a process with Dagster needs.

    Args:
        settings: the settings.
        home: the folder of dagster.yaml.

    Raises:
        PipelineError: a folder or a database is not usable.
    """
    private.home(settings.pipeline_home)
    found = environment.server(settings)
    environment.require_session(found)
    prepare(found, settings, home=home)
    return found


def name_it(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Set the environment variables that dagster.yaml reads.

    Raises:
        SettingsError: DAGSTER_HOME names a folder without dagster.yaml.
    """
    os.environ[DAGSTER_URL] = dagster_url(found.target)
    for variable in _OF_THE_ENVIRONMENT:
        os.environ.pop(variable, None)
    given = os.environ["DAGSTER_HOME"] = os.environ.get("DAGSTER_HOME") or str(home)
    if not os.path.isabs(given) or not os.path.isfile(f"{given}/dagster.yaml"):  # noqa: PTH113, PTH117
        raise SettingsError(
            f"DAGSTER_HOME names {given}, which contains no dagster.yaml",
            remedy=f"Unset it, or set it to {home}",
        )
    os.environ[DAGSTER_FILES] = str(settings.dagster_files)


def lost(error: Exception, settings: Settings) -> TargetError:
    """The error for a target that was lost during a command."""
    data = settings.server_data
    ended = isinstance(error, ServerEnded) or postmaster.find(data) is None
    if settings.configured_target is None and ended:
        return TargetError(
            f"The embedded PostgreSQL in {data} stopped during the command; the current"
            " transaction was rolled back",
            remedy=f"Run again to restart it; {data / 'log'} may name the cause",
        )
    return unreachable(error, environment.server(settings))


def prepare(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Create Dagster's tables in schema ``dagster`` of the target, and update an old ledger.

    Raises:
        TargetError: the target does not answer, or the user may not create a schema.
    """
    name_it(found, settings, home=home)
    private.folder(settings.dagster_files)
    try:
        with (
            closing(
                session.connect(
                    found.target_url,
                    shown=found.target_shown,
                    application_name=_NAME,
                    settings=_PATIENT,
                    seconds=10,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            environment.update(cursor)
            cursor.execute(_DAGSTER_IS_THERE)
            if cursor.fetchone() == (True,):
                return
            _require_connections(cursor, found)
            # The first process creates schema and tables; others wait for it here.
            cursor.execute("SELECT pg_advisory_lock(%s)", (_FIRST_USE,))
            cursor.execute("CREATE SCHEMA IF NOT EXISTS dagster")
            with dg.DagsterInstance.get():
                pass
    except (*ERRORS, ValueError) as error:
        raise unreachable(error, found) from None


def unreachable(error: BaseException, found: Server) -> TargetError:
    """The error for an unreachable target; raise it ``from None``, because drivers repeat URLs."""
    return TargetError.from_driver(error, where=found.target_shown, url=found.target_url)


def require_connections(found: Server) -> None:
    """Refuse a run if the server has too few free connections.

    Raises:
        Transient: says how many are free, and how many are needed.
        TargetError: the target does not answer.
    """
    opened = session.connect(
        found.target_url, shown=found.target_shown, application_name=_NAME, seconds=10
    )
    with closing(opened) as connection, connection.cursor() as cursor:
        _require_connections(cursor, found)


def _require_connections(cursor: Any, found: Server) -> None:
    def ask(query: str) -> Any:
        cursor.execute(query)
        return cursor.fetchall()

    limit = connections.tightest(ask)
    if not limit.enough:
        raise Transient(
            f"{found.target_shown}: too few connections are free: {limit.detail}",
            remedy=limit.remedy,
        )
