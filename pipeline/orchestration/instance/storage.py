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
    """The embedded server ended while it was used; no error that Dagster waits for and retries."""


ERRORS = (psycopg2.Error, sa.exc.SQLAlchemyError, DagsterPostgresException)
"""What Dagster's storage raises when the target does not serve it."""
_FIRST_USE = 0x646167737465  # "dagste"
_NAME = "pipeline start"
"""What the server's list of sessions calls those that come before a run."""
_PATIENT = session.stating(lock_timeout="0")
"""To make Dagster's tables may take longer than a lock is waited for elsewhere."""
_OF_THE_ENVIRONMENT = ("PGTZ", "PGDATESTYLE", "PGGEQO")
"""Variables that libpq turns into settings of a session, against what its URL says."""
_DAGSTER_IS_THERE = (
    "SELECT to_regclass('dagster.runs') IS NOT NULL AND to_regclass('dagster.event_logs')"
    " IS NOT NULL AND to_regclass('dagster.instigators') IS NOT NULL"
)


def ready(settings: Settings, *, home: Path = PROJECT) -> Server:
    """Make sure that everything is there which a process with Dagster needs.

    Args:
        settings: where it is.
        home: the folder of dagster.yaml.

    Raises:
        PipelineError: a folder or a database cannot be used.
    """
    private.home(settings.pipeline_home)
    found = environment.server(settings)
    environment.require_session(found)
    prepare(found, settings, home=home)
    return found


def name_it(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Tell Dagster in this process, and in those it starts, where it keeps what.

    Raises:
        SettingsError: DAGSTER_HOME is set to something else than such a folder.
    """
    os.environ[DAGSTER_URL] = dagster_url(found.target)
    for variable in _OF_THE_ENVIRONMENT:
        os.environ.pop(variable, None)
    given = os.environ["DAGSTER_HOME"] = os.environ.get("DAGSTER_HOME") or str(home)
    if not os.path.isabs(given) or not os.path.isfile(f"{given}/dagster.yaml"):  # noqa: PTH113, PTH117
        raise SettingsError(
            f"DAGSTER_HOME names {given}, where there is no dagster.yaml",
            remedy=f"Do not set it, or set it to {home}",
        )
    os.environ[DAGSTER_FILES] = str(settings.dagster_files)


def lost(error: Exception, settings: Settings) -> TargetError:
    """Say that the target went away while a command used it."""
    data = settings.server_data
    ended = isinstance(error, ServerEnded) or postmaster.find(data) is None
    if settings.given_target is None and ended:
        return TargetError(
            f"The embedded PostgreSQL in {data} ended while it was used; what was under way was"
            " rolled back",
            remedy=f"Run again, which starts it; {data / 'log'} may say why it ended",
        )
    return unreachable(error, environment.server(settings))


def prepare(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Make Dagster keep its runs in schema ``dagster`` of the target, as dagster.yaml says.

    A ledger that an older version has made is brought up to date.

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
            # Whoever comes first makes schema and tables; others wait for it here.
            cursor.execute("SELECT pg_advisory_lock(%s)", (_FIRST_USE,))
            cursor.execute("CREATE SCHEMA IF NOT EXISTS dagster")
            with dg.DagsterInstance.get():
                pass
    except (*ERRORS, ValueError) as error:
        raise unreachable(error, found) from None


def unreachable(error: BaseException, found: Server) -> TargetError:
    """What a driver or Dagster said of the target; raise it ``from None``, as they repeat URLs."""
    return TargetError.from_driver(error, where=found.target_shown, url=found.target_url)


def require_connections(found: Server) -> None:
    """Refuse a run for which the server has too few connections left.

    Raises:
        Transient: says how many there are, and how many are needed.
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
