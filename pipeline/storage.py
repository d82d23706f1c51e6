"""Where Dagster keeps its runs, events and schedules: schema ``dagster`` of the target."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import sqlalchemy as sa
from dagster_postgres.utils import DagsterPostgresException

from pipeline import environment
from pipeline.environment import Server
from pipeline.move import connections
from pipeline.move.errors import SettingsError, TargetError, Transient
from pipeline.settings import DAGSTER_FILES, DAGSTER_URL, PROJECT, Settings, dagster_url
from pipeline.tables import ledger

_FIRST_USE = 0x646167737465  # "dagste"
UNREACHABLE = (psycopg2.Error, sa.exc.SQLAlchemyError, DagsterPostgresException, ValueError)
"""What connecting to the target raises, by a driver or by Dagster."""
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
    try:
        settings.pipeline_home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"PIPELINE_HOME cannot be {settings.pipeline_home} ({error.strerror})",
            remedy="Name a folder that can be written",
        ) from error
    found = environment.server(settings)
    environment.demand_session(found)
    prepare(found, settings, home=home)
    return found


def name_it(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Tell Dagster in this process, and in those it starts, where it keeps what.

    Raises:
        SettingsError: DAGSTER_HOME is set to something else than such a folder.
    """
    os.environ[DAGSTER_URL] = dagster_url(found.target)
    given = os.environ["DAGSTER_HOME"] = os.environ.get("DAGSTER_HOME") or str(home)
    if not os.path.isabs(given) or not os.path.isfile(f"{given}/dagster.yaml"):  # noqa: PTH113, PTH117
        raise SettingsError(
            f"DAGSTER_HOME names {given}, where there is no dagster.yaml",
            remedy=f"Do not set it, or set it to {home}",
        )
    os.environ[DAGSTER_FILES] = str(settings.dagster_files)


def prepare(found: Server, settings: Settings, *, home: Path = PROJECT) -> None:
    """Make Dagster keep its runs in schema ``dagster`` of the target, as dagster.yaml says.

    A ledger that an older version has made is brought up to date.

    Raises:
        TargetError: the target does not answer, or the user may not create a schema.
    """
    name_it(found, settings, home=home)
    settings.dagster_files.mkdir(parents=True, exist_ok=True)
    try:
        with closing(psycopg2.connect(found.target_url, connect_timeout=10)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(ledger.OUTDATED)
                if cursor.fetchone() == (True,):
                    cursor.execute(ledger.UPDATE)
                cursor.execute(_DAGSTER_IS_THERE)
                if cursor.fetchone() == (True,):
                    return
                _require_connections(cursor, found)
                # Whoever comes first makes schema and tables; others wait for it here.
                cursor.execute("SELECT pg_advisory_lock(%s)", (_FIRST_USE,))
                cursor.execute("CREATE SCHEMA IF NOT EXISTS dagster")
                with dg.DagsterInstance.get():
                    pass
    except UNREACHABLE as error:
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
    try:
        with (
            closing(psycopg2.connect(found.target_url, connect_timeout=10)) as connection,
            connection.cursor() as cursor,
        ):
            _require_connections(cursor, found)
    except UNREACHABLE as error:
        raise unreachable(error, found) from None


def _require_connections(cursor: Any, found: Server) -> None:
    def ask(query: str) -> Any:
        cursor.execute(query)
        return cursor.fetchall()

    limit = connections.tightest(ask)
    if not limit.enough:
        raise Transient(
            f"{found.target_shown}: too few connections are free: {limit.says}",
            remedy=limit.remedy,
        )
