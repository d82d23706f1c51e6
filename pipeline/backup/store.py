"""The folders of backups: ``PIPELINE_HOME/backups/NAME``, where the name is the time in UTC.

A backup is written below ``unfinished`` and renamed once everything is on disk, so a killed run
leaves nothing that looks like a backup. Removal moves a backup there first, for the same reason.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.backup import manifest as manifests
from pipeline.backup.errors import BackupError
from pipeline.backup.manifest import Manifest
from pipeline.core import private
from pipeline.core.errors import FilesError
from pipeline.core.locks import private_folder
from pipeline.core.messages import BACKUP, message

_BACKUPS, _UNFINISHED, _REPLACED = "backups", "unfinished", "replaced"
_CHUNK = 1 << 20


def stamp(moment: datetime) -> str:
    """A time as a name, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6].replace(":", "-") + "Z"


def place(home: Path, name: str) -> Path:
    """The folder of a finished backup."""
    return home / _BACKUPS / name


def replaced(home: Path) -> Path:
    """A new path for the copy of a source that a restore is about to overwrite."""
    return home / _BACKUPS / _REPLACED / f"{stamp(datetime.now(UTC))}.db"


def finished(home: Path) -> list[Manifest]:
    """All backups, newest first; other files and damaged backups are ignored."""
    found = []
    with contextlib.suppress(OSError):
        for folder in (home / _BACKUPS).iterdir():
            with contextlib.suppress(BackupError):
                found.append(manifests.read(folder))
    return sorted(found, key=lambda manifest: manifest.at, reverse=True)


def newest(home: Path, migration: str, *, restore_verified: bool = False) -> Manifest | None:
    """The newest backup of a migration, optionally only among backups with a verified restore."""
    wanted = (m for m in finished(home) if m.migration == migration)
    return next((m for m in wanted if m.restore_verified or not restore_verified), None)


def named(home: Path, migration: str, name: str | None) -> Manifest:
    """The backup with this name; without a name, the newest one whose restore was verified.

    Raises:
        BackupError: there is none, it belongs to another migration, or its manifest is damaged.
    """
    if name is not None:
        manifest = manifests.read(place(home, Path(name).name))
        if manifest.migration != migration:
            raise BackupError(
                f"The backup {manifest.name} belongs to the migration {manifest.migration}, not to"
                f" {migration}",
                remedy="Use that migration, or choose another backup",
            )
        return manifest
    found = newest(home, migration, restore_verified=True)
    if found is None:
        raise BackupError(
            f"There is no backup of {migration} with a verified restore in {home / _BACKUPS}",
            remedy=message("Run ", BACKUP, ", or choose a backup with --from"),
        )
    return found


@contextmanager
def unfinished(home: Path, name: str) -> Iterator[Path]:
    """A folder to fill; it is removed at the end unless ``finish`` has renamed it.

    Raises:
        BackupError: the folder cannot be written, or the disk is full.
    """
    try:
        with private_folder(home / _BACKUPS / _UNFINISHED, name) as folder:
            yield folder
    except (OSError, FilesError) as error:
        cause = error.__cause__ if isinstance(error, FilesError) else error
        detail = cause.strerror if isinstance(cause, OSError) else None
        raise BackupError(
            f"The backup {name} cannot be written in {home / _BACKUPS}"
            f" ({detail or type(error).__name__})",
            remedy="Free disk space there, or give this user write permission, and run again",
        ) from error


def finish(home: Path, folder: Path, manifest: Manifest) -> None:
    """Turn a filled folder into a backup, once all of it is on disk."""
    _write(folder, manifest)
    made = folder.rename(place(home, manifest.name))
    # Only after the rename: cleaning up removes unfinished folders that nobody locks.
    (made / "lock").unlink()
    _flush_folder(home / _BACKUPS)


def mark_restore_verified(home: Path, manifest: Manifest) -> Manifest:
    """Record the present time in the manifest as that of a verified restore."""
    marked = replace(manifest, restore_verified=datetime.now(UTC))
    _write(place(home, manifest.name), marked)
    return marked


def retain(home: Path, migration: str, keep: int) -> list[str]:
    """Remove all but the newest ``keep`` backups of a migration.

    The newest backup with a verified restore always stays; without one, nothing is removed. Of the
    sources that restores have overwritten, the newest ``keep`` copies stay.

    Returns:
        The names of the removed backups.
    """
    safe = newest(home, migration, restore_verified=True)
    mine = [each for each in finished(home) if each.migration == migration]
    old = [each.name for each in mine[keep:] if safe and each.name != safe.name]
    for name in old:
        to_delete = home / _BACKUPS / _UNFINISHED / name
        private.folder(to_delete.parent)
        place(home, name).rename(to_delete)
        shutil.rmtree(to_delete, ignore_errors=True)
    for path in sorted((home / _BACKUPS / _REPLACED).glob("*"), reverse=True)[keep:]:
        path.unlink(missing_ok=True)
    return old


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        BackupError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BackupError(
            f"{path} cannot be read ({error.strerror})", remedy="Take another backup"
        ) from error
    return digest.hexdigest()


def require_intact(path: Path, sha256: str) -> None:
    """Refuse a file of a backup that was changed after it was written.

    Raises:
        BackupError: it is missing or damaged.
    """
    if file_sha256(path) != sha256:
        raise BackupError(
            f"{path} is damaged: its SHA-256 differs from the manifest",
            remedy="Take another backup",
        )


def flush_to_disk(path: Path) -> None:
    """Wait until a file's contents are on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(folder: Path, manifest: Manifest) -> None:
    path = manifests.path_in(folder)
    draft = path.with_suffix(".new")
    private.write_text(draft, manifests.sealed(manifest))
    flush_to_disk(draft)
    draft.rename(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
