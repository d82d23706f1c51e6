"""Check the databases that the settings name."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.environment import databases
from pipeline.config.records import Records, locate
from pipeline.config.settings import Settings
from pipeline.core.errors import TargetError
from pipeline.core.server_errors import CONNECTIONS_OF_A_MOVE, CONNECTIONS_OF_A_RUN
from pipeline.doctor import records, source, source_data, target
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.migrations.declaration import Migration


def examine(settings: Settings, migration: Migration) -> list[Diagnostic]:
    """Check source and target of a migration without changing them.

    Raises:
        TargetError: the embedded server does not start.
        SettingsError: a URL is malformed.
    """
    found = databases(settings, migration, fresh=True)
    tables = migration.tables
    try:
        size = found.source.stat().st_size
    except OSError:  # reported by the check of the source
        size = 0
    return [
        *source.examine(
            found.source,
            snapshots=found.snapshots,
            tables=tables,
            whence=settings.origin(migration),
        ),
        *source_data.examine(
            found.source, migration, settings.policies(migration), folder=found.snapshots
        ),
        *_examine_servers(settings, found.target, tables=tables, bytes_needed=size),
    ]


def _examine_servers(
    settings: Settings, url: URL, *, tables: Sequence[sa.Table], bytes_needed: int
) -> list[Diagnostic]:
    """Check the target and the database of Dagster's records."""
    try:
        kept: Records | None = locate(settings, url)
    except TargetError:  # reported by the check of the target
        kept = None
    together = kept is None or kept.url == url
    return [
        *target.examine(
            url,
            tables=tables,
            bytes_needed=bytes_needed,
            adopt=settings.adopt_target,
            connections_needed=CONNECTIONS_OF_A_RUN if together else CONNECTIONS_OF_A_MOVE,
        ),
        *(records.examine(kept, in_target=together) if kept else ()),
    ]
