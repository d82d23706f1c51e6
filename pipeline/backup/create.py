"""Back up both databases and verify the backup by restoring it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from pipeline.backup import restore, source, store, target_dump
from pipeline.backup.manifest import SOURCE_FILE, Manifest
from pipeline.config.environment import Databases
from pipeline.core.errors import PipelineError
from pipeline.core.messages import Address
from pipeline.core.private import Rights
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration


@dataclass(frozen=True)
class RestoreCheck:
    """The result of restoring one database elsewhere; ``fault`` is None if it succeeded."""

    fault: str | None
    seconds: float


@dataclass(frozen=True)
class BackupResult:
    """A new backup, with the seconds of both copies and the names of removed older backups."""

    manifest: Manifest
    source_seconds: float
    target_seconds: float
    source: RestoreCheck
    target: RestoreCheck
    removed: tuple[str, ...]


def make(home: Path, found: Databases, migration: Migration, *, keep: int) -> BackupResult:
    """Take a backup and restore it elsewhere; the caller holds the target's lock.

    ``keep`` is the number of the migration's backups that remain.

    Raises:
        PipelineError: the backup failed; nothing that looks like a backup remains.
    """
    at = datetime.now(UTC)
    name = store.stamp(at)
    with store.unfinished(home, name) as folder:
        started = time.perf_counter()
        source_tables = source.back_up(found.source, folder / SOURCE_FILE)
        sha256 = store.file_sha256(folder / SOURCE_FILE)
        copied = time.perf_counter()
        target_tables = target_dump.back_up(
            found.target_url, shown=found.target_shown, parts=_parts(migration), folder=folder
        )
        ended = time.perf_counter()
        manifest = Manifest(
            name=name,
            at=at,
            source=str(found.source),
            source_sha256=sha256,
            source_bytes=(folder / SOURCE_FILE).stat().st_size,
            source_tables=source_tables,
            target=found.target_shown,
            target_tables=target_tables,
            migration=migration.name,
            source_rights=Rights.of(found.source),
        )
        store.finish(home, folder, manifest)
    backup = store.place(home, name)
    with store.unfinished(home, f"{name}-restore-check") as scratch:
        source_check = _check(
            lambda: source.verify_restore(backup, manifest, scratch=scratch), migration.address
        )
    target_check = _check(
        lambda: restore.verify_restore(
            found.target_url, shown=found.target_shown, tables=target_tables, folder=backup
        ),
        migration.address,
    )
    removed: list[str] = []
    if not (source_check.fault or target_check.fault):
        manifest = store.mark_restore_verified(home, manifest)
        removed = store.retain(home, migration.name, keep)
    return BackupResult(
        manifest, copied - started, ended - copied, source_check, target_check, tuple(removed)
    )


def _parts(migration: Migration) -> Iterator[tuple[sa.Table, str]]:
    """A migration's tables in the target, and its rows in the ledger."""
    names = [table.name for table in migration.tables]
    for table in migration.tables:
        yield table, ""
    for table in ledger.metadata.sorted_tables:
        only = ledger.migration_rows(table, migration.name, names)
        if only is not None:
            yield table, only


def _check(restore: Callable[[], None], address: Address) -> RestoreCheck:
    started = time.perf_counter()
    try:
        restore()
    except PipelineError as error:
        return RestoreCheck(str(error.for_migration(address)), time.perf_counter() - started)
    return RestoreCheck(None, time.perf_counter() - started)
