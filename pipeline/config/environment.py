"""From settings to databases that answer: the sample sources, the embedded server."""

import contextlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import URL

from pipeline.config.settings import Settings, libpq, pooled, shown
from pipeline.core import private
from pipeline.core.errors import SettingsError, TargetError
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.postgres import session
from pipeline.postgres.embedded.server import ensure_server
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump, File, Remote
from pipeline.sqlite.snapshot import validate


@dataclass(frozen=True)
class Server:
    """The target.

    Attributes:
        target: the PostgreSQL database, with its password.
    """

    target: URL

    @property
    def target_url(self) -> str:
        """The target as libpq reads it."""
        return libpq(self.target)

    @property
    def target_shown(self) -> str:
        """The target for people, without a password."""
        return shown(self.target)


@dataclass(frozen=True)
class Databases(Server):
    """Where everything of a migration is.

    Attributes:
        source: the SQLite file.
        snapshots: where runs keep their private copies of the source.
    """

    source: Path
    snapshots: Path


def server(settings: Settings) -> Server:
    """Make sure that the target is there; it is started where the settings name none.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: the URL is malformed.
    """
    if settings.given_target is not None:
        return Server(settings.given_target)
    private.home(settings.pipeline_home)
    return Server(ensure_server(settings.server_data))


def databases(settings: Settings, migration: Migration, *, fresh: bool = False) -> Databases:
    """Make sure that source and target are there.

    A sample is made, and the embedded server started, only where the settings name none.

    Args:
        settings: they name both.
        migration: whose source.
        fresh: what was fetched of the source is brought up to date, too.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: a URL is malformed.
        SourceError: the source cannot be fetched.
    """
    source = settings.source_path(migration)
    if fresh or isinstance(settings.origin(migration), File) or not source.exists():
        source = source_file(settings, migration)
    return Databases(server(settings).target, source, settings.snapshots)


def source_file(settings: Settings, migration: Migration) -> Path:
    """The source alone, up to date with where it comes from; the sample is made.

    Raises:
        SettingsError: the URL is malformed.
        SourceError: it cannot be fetched.
    """
    origin = settings.origin(migration)
    if not isinstance(origin, File) or origin.path == settings.sample_path(migration):
        private.home(settings.pipeline_home)
    source = fetch(origin, home=settings.pipeline_home)
    if source == settings.sample_path(migration) and not source.exists():
        # Two processes may come here together; the sample is the same whoever makes it.
        with contextlib.suppress(FileExistsError):
            migration.make_sample(source)
    return source


def watched(settings: Settings, migration: Migration) -> Path:
    """The file that looks otherwise once the source has been written.

    A database on Turso is asked whether it has something new, which is one short request; what has
    never been fetched is left to a run, as it may take long. A dump is looked at itself.

    Raises:
        SettingsError: the URL is malformed.
        SourceError: there is no source, or the server refuses us.
    """
    match settings.origin(migration):
        case Dump(path) if path.exists():
            return path
        case Remote() if not settings.source_path(migration).exists():
            return settings.source_path(migration)
    source = source_file(settings, migration)
    validate(source)
    return source


def update_ledger(found: Server) -> None:
    """Bring a ledger that an older version has made up to date.

    Raises:
        TargetError: the target does not answer, or refuses.
    """
    try:
        with (
            closing(
                session.connect(found.target_url, shown=found.target_shown, seconds=10)
            ) as connection,
            connection.cursor() as cursor,
        ):
            update(cursor)
    except psycopg2.Error as error:
        # Not "from error": the driver's own text may repeat the URL.
        made = TargetError.from_driver(error, where=found.target_shown, url=found.target_url)
        raise made from None


def update(cursor: Any) -> None:
    """Bring the ledger up to date by a session that is open already."""
    cursor.execute(ledger.OUTDATED)
    if cursor.fetchone() == (True,):
        cursor.execute(ledger.UPDATE)


def require_session(found: Server) -> None:
    """Refuse bulk work over a connection that holds for one transaction only.

    Raises:
        SettingsError: the target is reached by a transaction pooler.
    """
    if pooled(found.target):
        raise SettingsError(
            f"DATABASE_URL names a transaction pooler (port {found.target.port}), which cannot hold"
            " the lock and the transaction that a move needs",
            remedy="Take the direct or the session connection (port 5432)",
        )
