"""Check the databases that the settings name."""

from pipeline.config.environment import databases
from pipeline.config.settings import Settings
from pipeline.doctor import source, target
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
        *target.examine(
            found.target, tables=tables, bytes_needed=size, adopt=settings.adopt_target
        ),
    ]
