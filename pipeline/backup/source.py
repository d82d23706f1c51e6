"""Copy, check and restore the SQLite file.

A restore goes through SQLite itself, as one transaction on the live file: open applications see it
like any other commit, a WAL is respected, and a killed restore leaves the file unchanged. Only a
file that SQLite does not accept as a database is renamed and replaced.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.backup import store
from pipeline.backup.errors import BackupError, RestoreRefused
from pipeline.backup.manifest import SOURCE_FILE, Manifest, SourceTable
from pipeline.core import private
from pipeline.core.errors import FilesError, SourceError
from pipeline.core.private import Rights
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations, integrity
from pipeline.sqlite.snapshot import BUSY_SECONDS, carry_over, copy_source, require_room, validate

_CHUNK = 1 << 20
_NOT_A_DATABASE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Suffixes of a database file and the files beside it."""


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        path: the restored file.
        kept: a copy of the previous file; None if there was none, or it equalled the backup.
        damaged_file: the previous file under its new name, if SQLite could not open it.
    """

    path: Path
    kept: Path | None
    damaged_file: Path | None


def back_up(source: Path, into: Path) -> tuple[SourceTable, ...]:
    """Copy the live file, which may be written meanwhile, and check the copy's integrity.

    Raises:
        SourceError: the file cannot be read.
        BackupError: it is damaged.
    """
    copy_source(source, into)
    store.flush_to_disk(into)
    with _open_copy(into) as copy:
        return figures(copy, shown=str(source))


def figures(connection: sqlite3.Connection, *, shown: str) -> tuple[SourceTable, ...]:
    """Row counts and digests of all tables, by name, after an integrity check.

    Digests include storage classes and follow the order of storage. Virtual tables are covered by
    their shadow tables.

    Raises:
        BackupError: the database is damaged.
    """
    connection.text_factory = _decode_losslessly
    try:
        collations.stand_in(connection)
        problems, _ = integrity.check(connection, most=3)
        if problems:
            raise _damaged(shown, "; ".join(problems))
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
        ).fetchall()
        return tuple(_figures(connection, name) for (name,) in names)
    except sqlite3.DatabaseError as error:
        if _error_name(error) in _NOT_A_DATABASE:
            raise _damaged(shown, str(error)) from error
        raise


def restore(
    copy: Path,
    onto: Path,
    *,
    kept: Path,
    expected: tuple[SourceTable, ...],
    rights: Rights | None = None,
) -> Restored:
    """Make a file equal to a backup's copy, and compare it with the manifest.

    The file keeps its mode, and its owner if this user has the right to set it.

    Args:
        copy: the backup's copy, known to be intact.
        onto: the file; it need not exist.
        kept: receives a copy of the present file.
        expected: tables from the manifest.
        rights: owner and mode of a missing file; None makes it private.

    Raises:
        RestoreRefused: another program keeps the file locked; it is unchanged.
        BackupError: it cannot be written, or differs afterwards.
    """
    try:
        private.folder(onto.parent)
        missing = not onto.exists()
    except (OSError, FilesError) as error:
        raise _refused(onto, error) from error
    require_room(copy, onto.parent)
    rights = Rights.of(onto) or rights
    previous = damaged_file = None
    if missing or _is_not_a_database(onto):
        damaged_file = _replace(onto, copy, rights)
    else:
        try:
            previous = _copy_current(onto, kept, expected)
            _overwrite(onto, copy)
        except sqlite3.DatabaseError as error:
            if _error_name(error) not in _NOT_A_DATABASE:
                raise _refused(onto, error) from error
            damaged_file = _replace(onto, copy, rights)
    with _translate_errors(onto), closing(_open(onto, "ro")) as live:
        live.execute("BEGIN")
        if figures(live, shown=str(onto)) != expected:
            raise BackupError(
                f"{onto} differs from the backup",
                remedy="The application may have written meanwhile. Stop it, then restore again",
            )
    return Restored(onto, previous, damaged_file)


def verify_restore(folder: Path, manifest: Manifest, *, scratch: Path) -> None:
    """Restore a backup's copy over a database in the folder ``scratch``, and compare.

    Raises:
        BackupError: the backup cannot be restored.
    """
    copy = folder / SOURCE_FILE
    store.require_intact(copy, manifest.source_sha256)
    live = private.create(scratch / "live.db")
    with closing(sqlite3.connect(live)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE other (id)")
    restore(copy, live, kept=scratch / "kept.db", expected=manifest.source_tables)


def _figures(connection: sqlite3.Connection, name: str) -> SourceTable:
    whole, rows = hashlib.sha256(), 0
    for row in integrity.rows(connection, name):
        # Different rows have different representations; a long BLOB is replaced by its digest.
        values = [hashlib.sha256(v).digest() if isinstance(v, bytes) else v for v in row]
        whole.update(repr(values).encode("utf-8", "surrogatepass"))
        rows += 1
    return SourceTable(name, rows, whole.hexdigest())


def _decode_losslessly(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _is_not_a_database(onto: Path) -> bool:
    """Whether a file is clearly no database; opening it would change the files beside it."""
    try:
        validate(onto)
    except SourceError:
        return onto.is_file() and os.access(onto, os.R_OK)
    return False


def _copy_current(onto: Path, kept: Path, expected: tuple[SourceTable, ...]) -> Path | None:
    """Copy the present file, unless it equals the backup."""
    private.folder(kept.parent)
    require_room(onto, kept.parent)
    draft = kept.with_name(f"{kept.name}.unfinished")
    draft.unlink(missing_ok=True)
    try:
        private.create(draft)
        with closing(_open(onto, "rw")) as live, closing(sqlite3.connect(draft)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            carry_over(live, copy, wait=BUSY_SECONDS)
        with _open_copy(draft) as copy, contextlib.suppress(BackupError):
            if figures(copy, shown=str(onto)) == expected:
                return None
        store.flush_to_disk(draft)
        return draft.rename(kept)
    finally:
        draft.unlink(missing_ok=True)


def _overwrite(onto: Path, copy: Path) -> None:
    with _open_copy(copy) as backup, closing(_open(onto, "rw")) as live:
        if _page_size(backup) != _page_size(live) and _is_wal(live):
            # In WAL mode SQLite cannot change the page size.
            live.execute("PRAGMA journal_mode = DELETE")
        carry_over(backup, live, wait=BUSY_SECONDS)


def _replace(onto: Path, copy: Path, rights: Rights | None) -> Path | None:
    """Put a copy where no database is; an existing file and the files beside it are renamed."""
    draft = onto.with_name(f"{onto.name}.restoring")
    try:
        with copy.open("rb") as original, private.opened(draft, "wb") as file:
            shutil.copyfileobj(original, file, _CHUNK)
            file.flush()
            if rights is not None:
                rights.apply(file.fileno())
        store.flush_to_disk(draft)
        damaged_file = _rename_damaged(onto)
        draft.rename(onto)
    except (OSError, FilesError) as error:
        draft.unlink(missing_ok=True)
        raise _refused(onto, error) from error
    return damaged_file


def _rename_damaged(onto: Path) -> Path | None:
    new = onto.with_name(f"{onto.name}.damaged-{store.replaced(onto).stem}")
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            onto.with_name(onto.name + suffix).rename(new.with_name(new.name + suffix))
    return new if new.exists() else None


@contextmanager
def _open_copy(copy: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that is not being written; no WAL is created beside it."""
    with closing(opening.connect(copy, "immutable")) as connection:
        yield connection


def _open(path: Path, mode: opening.Mode) -> sqlite3.Connection:
    return opening.connect(path, mode, timeout=0, isolation_level=None)


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


def _is_wal(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA journal_mode").fetchone() == ("wal",))


@contextmanager
def _translate_errors(onto: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _refused(onto, error) from error


def _error_name(error: sqlite3.Error) -> str:
    """SQLite's primary result code, such as ``SQLITE_BUSY``."""
    name = getattr(error, "sqlite_errorname", "") or (
        "SQLITE_BUSY" if "locked" in str(error) else ""
    )
    return "_".join(name.split("_")[:2])


def _refused(onto: Path, error: Exception) -> BackupError:
    if isinstance(error, FilesError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, sqlite3.Error) and _error_name(error) in _LOCKED:
        return RestoreRefused(
            f"{onto} stayed locked by another program and was not changed",
            remedy="Let that program finish, or close it, then restore again",
        )
    why = error.strerror if isinstance(error, OSError) else error
    return BackupError(
        f"{onto} cannot be written ({why}) and was not changed",
        remedy="Check the permissions of its folder and the free disk space, then restore again",
    )


def _damaged(shown: str, problem: str) -> BackupError:
    return BackupError(
        f"{shown} is damaged ({' '.join(problem.split())[:200]})",
        remedy="Restore it from an earlier backup, or recover it with `sqlite3 FILE .recover`",
    )
