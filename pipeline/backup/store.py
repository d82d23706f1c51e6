"""Where backups lie: a folder each below ``PIPELINE_HOME/backups``, named by its time in UTC.

A backup is filled below ``unfinished`` and renamed when everything is on the disk, so what was
killed never looks like a backup. What is removed goes back there first, for the same reason.
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
    """A moment as names have it, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6].replace(":", "-") + "Z"


def place(home: Path, name: str) -> Path:
    """The folder of a finished backup."""
    return home / _BACKUPS / name


def replaced(home: Path) -> Path:
    """A new name for a copy of a source that a restore is about to overwrite."""
    return home / _BACKUPS / _REPLACED / f"{stamp(datetime.now(UTC))}.db"


def finished(home: Path) -> list[Manifest]:
    """All backups, the newest first; whatever else lies there is passed over."""
    found = []
    with contextlib.suppress(OSError):
        for folder in (home / _BACKUPS).iterdir():
            with contextlib.suppress(BackupError):
                found.append(manifests.read(folder))
    return sorted(found, key=lambda manifest: manifest.at, reverse=True)


def newest(home: Path, migration: str, *, rehearsed: bool = False) -> Manifest | None:
    """The newest backup of a migration, None without any.

    Args:
        home: PIPELINE_HOME.
        migration: its name.
        rehearsed: only of those that are known to be restorable.
    """
    wanted = (m for m in finished(home) if m.migration == migration)
    return next((m for m in wanted if m.rehearsed or not rehearsed), None)


def named(home: Path, migration: str, name: str | None) -> Manifest:
    """The backup of a name, or the newest of a migration that was rehearsed.

    Raises:
        BackupError: there is none, it is of another migration, or its manifest is damaged.
    """
    if name is not None:
        manifest = manifests.read(place(home, Path(name).name))
        if manifest.migration != migration:
            raise BackupError(
                f"The backup {manifest.name} is of the migration {manifest.migration}, not of"
                f" {migration}",
                remedy="Name that migration, or another backup",
            )
        return manifest
    found = newest(home, migration, rehearsed=True)
    if found is None:
        raise BackupError(
            f"There is no rehearsed backup of {migration} in {home / _BACKUPS}",
            remedy=message("Run ", BACKUP, ", or name one with --from"),
        )
    return found


@contextmanager
def unfinished(home: Path, name: str) -> Iterator[Path]:
    """A folder to fill; it is gone at the end, unless ``finish`` has renamed it.

    Raises:
        BackupError: it cannot be written, or its disk is full.
    """
    try:
        with private_folder(home / _BACKUPS / _UNFINISHED, name) as folder:
            yield folder
    except (OSError, FilesError) as error:
        cause = error.__cause__ if isinstance(error, FilesError) else error
        said = cause.strerror if isinstance(cause, OSError) else None
        raise BackupError(
            f"The backup {name} cannot be written in {home / _BACKUPS}"
            f" ({said or type(error).__name__})",
            remedy="Make room there, or give this user the right to write, and run again",
        ) from error


def finish(home: Path, folder: Path, manifest: Manifest) -> None:
    """Make a filled folder a backup; everything is on the disk before it bears its name."""
    _write(folder, manifest)
    made = folder.rename(place(home, manifest.name))
    # Not before: whoever clears away takes a folder without a held lock for a dead one's.
    (made / "lock").unlink()
    _settle(home / _BACKUPS)


def note_rehearsal(home: Path, manifest: Manifest) -> Manifest:
    """Note that a backup is restorable."""
    noted = replace(manifest, rehearsed=datetime.now(UTC))
    _write(place(home, manifest.name), noted)
    return noted


def retain(home: Path, migration: str, keep: int) -> list[str]:
    """Remove what is older than so many of a migration's newest backups.

    Of sources that a restore has overwritten, so many copies are kept, too.

    The newest backup that was rehearsed stays, however old it is.

    Returns:
        The names of the backups that were removed.
    """
    safe = newest(home, migration, rehearsed=True)
    mine = [each for each in finished(home) if each.migration == migration]
    old = [each.name for each in mine[keep:] if safe and each.name != safe.name]
    for name in old:
        aside = home / _BACKUPS / _UNFINISHED / name
        private.folder(aside.parent)
        place(home, name).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    for path in sorted((home / _BACKUPS / _REPLACED).glob("*"), reverse=True)[keep:]:
        path.unlink(missing_ok=True)
    return old


def sha256_of(path: Path) -> str:
    """The digest of a file.

    Raises:
        BackupError: it cannot be read.
    """
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                whole.update(chunk)
    except OSError as error:
        raise BackupError(
            f"{path} cannot be read ({error.strerror})", remedy="Take another backup"
        ) from error
    return whole.hexdigest()


def require_whole(path: Path, sha256: str) -> None:
    """Refuse a file of a backup that is not as it was written.

    Raises:
        BackupError: it is missing or damaged.
    """
    if sha256_of(path) != sha256:
        raise BackupError(
            f"{path} is not as it was written: its SHA-256 differs from the manifest's",
            remedy="Take another backup",
        )


def onto_disk(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(folder: Path, manifest: Manifest) -> None:
    path = manifests.path_in(folder)
    draft = path.with_suffix(".new")
    private.write_text(draft, manifests.sealed(manifest))
    onto_disk(draft)
    draft.rename(path)
    _settle(folder)


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    row_id = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(row_id)
    finally:
        os.close(row_id)
