"""A backup of both databases, rehearsed as soon as it is made."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from pipeline.backup import dump, restore, source, store
from pipeline.backup.manifest import SOURCE_FILE, Manifest
from pipeline.config.environment import Databases
from pipeline.core.errors import PipelineError
from pipeline.core.messages import Address
from pipeline.core.private import Rights
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration


@dataclass(frozen=True)
class RestoreCheck:
    """How the restore of one half elsewhere went.

    Attributes:
        fault: why it cannot be restored, None if it can.
        seconds: how long it took.
    """

    fault: str | None
    seconds: float


@dataclass(frozen=True)
class Made:
    """A backup that was just made.

    Attributes:
        manifest: what it holds, and whether it is known to be restorable.
        source_seconds: how long the copy of the source took.
        target_seconds: how long the dump of the target took.
        source: how its restore went.
        target: how its restore went.
        removed: names of older backups that were removed.
    """

    manifest: Manifest
    source_seconds: float
    target_seconds: float
    source: RestoreCheck
    target: RestoreCheck
    removed: tuple[str, ...]


def make(home: Path, found: Databases, migration: Migration, *, keep: int) -> Made:
    """Take a backup and restore it elsewhere; the caller holds the target's lock.

    Args:
        home: PIPELINE_HOME.
        found: both databases.
        migration: whose databases these are.
        keep: how many backups of it are kept.

    Raises:
        PipelineError: it could not be taken; nothing that looks like a backup is left.
    """
    at = datetime.now(UTC)
    name = store.stamp(at)
    with store.unfinished(home, name) as folder:
        started = time.perf_counter()
        held = source.back_up(found.source, folder / SOURCE_FILE)
        sha256 = store.sha256_of(folder / SOURCE_FILE)
        between = time.perf_counter()
        dumped = dump.back_up(
            found.target_url, shown=found.target_shown, parts=_parts(migration), folder=folder
        )
        ended = time.perf_counter()
        manifest = Manifest(
            name=name,
            at=at,
            source=str(found.source),
            source_sha256=sha256,
            source_bytes=(folder / SOURCE_FILE).stat().st_size,
            source_tables=held,
            target=found.target_shown,
            target_tables=dumped,
            migration=migration.name,
            source_rights=Rights.of(found.source),
        )
        store.finish(home, folder, manifest)
    kept = store.place(home, name)
    with store.unfinished(home, f"{name}-rehearsal") as scratch:
        of_source = _restore_checked(
            lambda: source.verify_restore(kept, manifest, scratch=scratch), migration.address
        )
    of_target = _restore_checked(
        lambda: restore.verify_restore(
            found.target_url, shown=found.target_shown, tables=dumped, folder=kept
        ),
        migration.address,
    )
    removed: list[str] = []
    if not (of_source.fault or of_target.fault):
        manifest = store.note_rehearsal(home, manifest)
        removed = store.retain(home, migration.name, keep)
    return Made(manifest, between - started, ended - between, of_source, of_target, tuple(removed))


def _parts(migration: Migration) -> Iterator[tuple[sa.Table, str]]:
    """What of the target belongs to a migration: its tables, and its rows of the ledger."""
    names = [table.name for table in migration.tables]
    for table in migration.tables:
        yield table, ""
    for table in ledger.metadata.sorted_tables:
        only = ledger.part_of(table, migration.name, names)
        if only is not None:
            yield table, only


def _restore_checked(restored: Callable[[], None], address: Address) -> RestoreCheck:
    started = time.perf_counter()
    try:
        restored()
    except PipelineError as error:
        return RestoreCheck(str(error.addressed(address)), time.perf_counter() - started)
    return RestoreCheck(None, time.perf_counter() - started)
