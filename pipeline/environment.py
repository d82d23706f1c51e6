"""From settings to databases that answer: sample source, embedded server, Dagster's schema."""

import contextlib
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psycopg2
from sqlalchemy.engine import URL

from pipeline.embedded import ensure_server
from pipeline.move.errors import TargetError
from pipeline.sample import make_sample
from pipeline.settings import (
    DAGSTER_FILES,
    DAGSTER_URL,
    PROJECT,
    Settings,
    dagster_url,
    libpq,
    shown,
)

_FIRST_USE = 0x646167737465  # "dagste"
_DAGSTER_IS_THERE = (
    "SELECT to_regclass('dagster.runs') IS NOT NULL AND to_regclass('dagster.event_logs')"
    " IS NOT NULL AND to_regclass('dagster.instigators') IS NOT NULL"
)


@dataclass(frozen=True)
class Databases:
    """Where everything is.

    Attributes:
        source: the SQLite file.
        target: the PostgreSQL database, with its password.
        snapshots: where runs keep their private copies of the source.
    """

    source: Path
    target: URL
    snapshots: Path

    @property
    def target_url(self) -> str:
        """The target as libpq reads it."""
        return libpq(self.target)

    @property
    def target_shown(self) -> str:
        """The target for people, without a password."""
        return shown(self.target)


def databases(settings: Settings) -> Databases:
    """Make sure that source and target are there.

    A sample is made, and the embedded server started, only where the settings name none.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: a URL is malformed.
    """
    source = settings.source_path
    if source == settings.sample_path and not source.exists():
        # Two processes may come here together; the sample is the same whoever makes it.
        with contextlib.suppress(FileExistsError):
            make_sample(source)
    target = settings.given_target or ensure_server(settings.server_data)
    return Databases(source, target, settings.snapshots)


def prepare_dagster(found: Databases, settings: Settings) -> None:
    """Make Dagster keep its runs in schema ``dagster`` of the target, as dagster.yaml says.

    Raises:
        TargetError: the target does not answer, or the user may not create a schema.
    """
    os.environ[DAGSTER_URL] = dagster_url(found.target)
    os.environ.setdefault("DAGSTER_HOME", str(PROJECT))
    os.environ[DAGSTER_FILES] = str(settings.dagster_files)
    settings.dagster_files.mkdir(parents=True, exist_ok=True)
    try:
        with closing(psycopg2.connect(found.target_url, connect_timeout=10)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(_DAGSTER_IS_THERE)
                if cursor.fetchone() == (True,):
                    return
                # Whoever comes first makes schema and tables; others wait for it here.
                cursor.execute("SELECT pg_advisory_lock(%s)", (_FIRST_USE,))
                cursor.execute("CREATE SCHEMA IF NOT EXISTS dagster")
                with dg.DagsterInstance.get():
                    pass
    except (psycopg2.Error, ValueError) as error:
        # Not "from error": the driver's own text may repeat the URL.
        url = found.target_url
        raise TargetError.from_driver(error, where=found.target_shown, url=url) from None
