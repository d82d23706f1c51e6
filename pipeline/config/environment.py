"""Databases of the settings, made available: sample sources and the embedded server included."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from pipeline.config.settings import Settings, libpq, pooled, shown
from pipeline.core import private
from pipeline.core.errors import SettingsError
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.postgres.embedded.server import ensure_server
from pipeline.postgres.target import Target
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump, File, Remote
from pipeline.sqlite.snapshot import validate


@dataclass(frozen=True)
class Server:
    """The target.

    Attributes:
        target: the URL of the PostgreSQL database, with its password.
    """

    target: URL

    @property
    def target_url(self) -> str:
        """The URL in the form of libpq, with its password."""
        return libpq(self.target)

    @property
    def target_shown(self) -> str:
        """The target in messages, without a password."""
        return shown(self.target)


@dataclass(frozen=True)
class Databases(Server):
    """Source and target of a migration.

    Attributes:
        source: the SQLite file.
        snapshots: the folder of the runs' private copies of the source.
    """

    source: Path
    snapshots: Path


def server(settings: Settings) -> Server:
    """Make the target available; without a configured target, start the embedded server.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: the URL is malformed.
    """
    if settings.configured_target is not None:
        return Server(settings.configured_target)
    private.home(settings.pipeline_home)
    return Server(ensure_server(settings.server_data))


def databases(settings: Settings, migration: Migration, *, fresh: bool = False) -> Databases:
    """Make source and target available.

    Without a configured source or target, create the sample or start the embedded server.

    ``fresh`` also updates an existing copy of a source that is fetched.

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
    """Fetch the source, or create the sample if no source is configured.

    Raises:
        SettingsError: the URL is malformed.
        SourceError: the source cannot be fetched.
    """
    origin = settings.origin(migration)
    if not isinstance(origin, File) or origin.path == settings.sample_path(migration):
        private.home(settings.pipeline_home)
    source = fetch(origin, home=settings.pipeline_home)
    is_sample = source == settings.sample_path(migration)
    if is_sample and migration.make_sample is not None and not source.exists():
        # Two processes may create the sample at once; both create the same.
        with contextlib.suppress(FileExistsError):
            migration.make_sample(source)
    return source


def watched_file(settings: Settings, migration: Migration) -> Path:
    """The file whose metadata changes when the source changes, for the sensor.

    For a database on Turso, one short request updates the copy first. A copy that does not exist
    yet is left to a run, because the first fetch may take long. For a dump, it is the dump itself.

    Raises:
        SettingsError: the URL is malformed.
        SourceError: the source is missing, or the server rejects the request.
    """
    match settings.origin(migration):
        case Dump(path) if path.exists():
            return path
        case Remote() if not settings.source_path(migration).exists():
            return settings.source_path(migration)
    source = source_file(settings, migration)
    validate(source)
    return source


def update_ledger(target: Target) -> None:
    """Update a ledger that an older version created.

    Raises:
        TargetError: the target does not respond or rejects the update.
    """
    if target.value(ledger.OUTDATED):
        target.run(ledger.UPDATE)


def require_session(found: Server) -> None:
    """Reject a transaction pooler, which cannot be used for bulk work.

    Raises:
        SettingsError: the target is reached through a transaction pooler.
    """
    if pooled(found.target):
        raise SettingsError(
            f"DATABASE_URL names a transaction pooler (port {found.target.port}), which does not"
            " support the lock and the transaction of a move",
            remedy="Use the direct or the session connection (port 5432)",
        )
