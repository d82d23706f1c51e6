"""Prepare the target and the database of Dagster's records for a command or a service."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import sqlalchemy as sa
from dagster_postgres.utils import DagsterPostgresException

from pipeline.config import environment, records
from pipeline.config.environment import Server
from pipeline.config.records import Records
from pipeline.config.settings import DAGSTER_FILES, DAGSTER_URL, Settings
from pipeline.core import private
from pipeline.core.errors import SettingsError, TargetError, Transient
from pipeline.core.private import FILES
from pipeline.core.server_errors import (
    CONNECTIONS_OF_A_MOVE,
    CONNECTIONS_OF_A_RUN,
    CONNECTIONS_OF_DAGSTER,
)
from pipeline.declared import ledger
from pipeline.postgres import connections, session
from pipeline.postgres.embedded import postmaster


class ServerEnded(sa.exc.SQLAlchemyError):
    """The embedded server has stopped; Dagster does not retry this error."""


ERRORS = (psycopg2.Error, sa.exc.SQLAlchemyError, DagsterPostgresException)
"""Errors of Dagster's storage when its database is not available."""
_FIRST_USE = 0x646167737465  # "dagste"
_NAME = "pipeline start"
"""Name of the preparing sessions in pg_stat_activity."""
_PATIENT = session.stating(lock_timeout="0")
"""Creating Dagster's tables may take longer than the usual lock timeout."""
_OF_THE_ENVIRONMENT = ("PGTZ", "PGDATESTYLE", "PGGEQO")
"""Variables that libpq applies to a session even if its URL says otherwise."""
_STATE_OF_TARGET = f"SELECT ({ledger.OUTDATED}), {records.TABLES_EXIST}, {connections.AS_JSON}"
"""Everything that a command has to know of a database before its run, in one round trip."""
_PATIENCE_SECONDS = 2.0
_CONFIGURATION = "dagster.yaml"


@dataclass(frozen=True)
class Ready(Server):
    """The target, and where Dagster keeps its records."""

    records: Records


def ready(settings: Settings, *, home: Path = FILES, for_a_run: bool = True) -> Ready:
    """Prepare everything that a process with Dagster needs.

    Args:
        settings: the settings.
        home: the folder of dagster.yaml.
        for_a_run: require free connections for a run.

    Raises:
        PipelineError: a folder or a database is not usable.
    """
    private.home(settings.pipeline_home)
    found = environment.server(settings)
    environment.require_session(found)
    return Ready(found.target, prepare(found, settings, home=home, for_a_run=for_a_run))


def export_environment(where: Records, settings: Settings, *, home: Path = FILES) -> None:
    """Set the environment variables that dagster.yaml reads.

    Raises:
        SettingsError: DAGSTER_HOME names a folder without dagster.yaml.
    """
    os.environ[DAGSTER_URL] = records.dagster_url(where.url)
    for variable in _OF_THE_ENVIRONMENT:
        os.environ.pop(variable, None)
    given = os.environ.get("DAGSTER_HOME") or str(_writable(home, settings))
    os.environ["DAGSTER_HOME"] = given
    if not os.path.isabs(given) or not os.path.isfile(f"{given}/{_CONFIGURATION}"):  # noqa: PTH113, PTH117
        raise SettingsError(
            f"DAGSTER_HOME names {given}, which contains no dagster.yaml",
            remedy=f"Unset it, or set it to {home}",
        )
    os.environ[DAGSTER_FILES] = str(settings.dagster_files)


def _writable(home: Path, settings: Settings) -> Path:
    """A folder with the same dagster.yaml in which Dagster may write, as it does in its home."""
    if not private.INSTALLED:
        return home
    folder = settings.dagster_files / f"home-{home.name}"
    path, text = folder / _CONFIGURATION, (home / _CONFIGURATION).read_text()
    private.folder(settings.dagster_files)
    private.folder(folder)
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(f".{os.getpid()}")
        private.write_text(fresh, text)
        fresh.replace(path)
    return folder


def lost(error: Exception, settings: Settings) -> TargetError:
    """The error for records that were lost during a command."""
    where, data = records.in_use(settings), settings.server_data
    ended = isinstance(error, ServerEnded) or postmaster.find(data) is None
    if where.place == "embedded" and ended:
        return TargetError(
            f"The embedded PostgreSQL in {data} stopped during the command; the current"
            " transaction was rolled back",
            remedy=f"Run again to restart it; {data / 'log'} may name the cause",
        )
    return where.unreachable(error)


def prepare(
    found: Server, settings: Settings, *, home: Path = FILES, for_a_run: bool = True
) -> Records:
    """Update an old ledger, and create Dagster's tables where its records are kept.

    The target is asked in one short session.

    Args:
        found: the target.
        settings: the settings.
        home: the folder of dagster.yaml.
        for_a_run: require free connections for a run.

    Raises:
        Transient: too few connections are free.
        TargetError: a database does not answer, or the user may not create a schema.
    """
    private.folder(settings.dagster_files)
    target = Records(found.target, "target")
    with _session(target) as cursor:
        outdated, there, limits = _facts(cursor)
        if outdated:
            cursor.execute(ledger.UPDATE)
        where = records.choose(settings, found.target, in_target=there)
        export_environment(where, settings, home=home)
        together = where.url == found.target
        needed = CONNECTIONS_OF_A_RUN if together else CONNECTIONS_OF_A_MOVE
        if for_a_run or (together and not there):
            _require_connections(cursor, target, limits, needed=needed)
        if together and not there:
            _create_tables(cursor)
    if not together:
        with _session(where) as cursor:
            _, there, limits = _facts(cursor)
            if for_a_run or not there:
                _require_connections(cursor, where, limits, needed=CONNECTIONS_OF_DAGSTER)
            if not there:
                _create_tables(cursor)
    return where


@contextmanager
def _session(where: Records) -> Iterator[Any]:
    try:
        with (
            closing(where.connect(application_name=_NAME, settings=_PATIENT)) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor
    except (*ERRORS, ValueError) as error:
        raise where.unreachable(error) from None


def _facts(cursor: Any) -> tuple[bool, bool, list[list[Any]]]:
    """Whether the ledger is outdated, whether Dagster's tables exist, and connection limits."""
    cursor.execute(_STATE_OF_TARGET)
    outdated, there, limits = cursor.fetchone()
    return outdated, there, limits


def _create_tables(cursor: Any) -> None:
    """Create Dagster's tables; other processes wait until the first has created them."""
    cursor.execute("SELECT pg_advisory_lock(%s)", (_FIRST_USE,))
    cursor.execute("CREATE SCHEMA IF NOT EXISTS dagster")
    with dg.DagsterInstance.get():
        pass


def _require_connections(
    cursor: Any, where: Records, limits: list[list[Any]], *, needed: int
) -> None:
    """Check for free connections, twice: others may be about to close theirs.

    Raises:
        Transient: says how many are free, and how many are needed.
    """
    limit = connections.tightest_of(limits, needed=needed)
    if not limit.enough:
        time.sleep(_PATIENCE_SECONDS)
        limit = connections.tightest_of(_facts(cursor)[2], needed=needed)
    if not limit.enough:
        raise Transient(
            f"{where.shown}: too few connections are free: {limit.detail}", remedy=limit.remedy
        )
