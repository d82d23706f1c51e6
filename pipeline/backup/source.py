"""The SQLite file: copied, examined, and put back.

A restore goes through SQLite itself, as one transaction on the live file: open applications see it
like any other commit, a WAL is respected, and one that is killed leaves the file as it was. Only
what SQLite cannot take for a database is moved aside instead.
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
from pipeline.core.quoting import quoted
from pipeline.sqlite import opening
from pipeline.sqlite.snapshot import BUSY_SECONDS, carry_over, copy_source, require_room, validate

_CHUNK = 1 << 20
_RUINED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
_BESIDE = ("", "-wal", "-shm", "-journal")
"""What belongs to a database file, by the end of its name."""


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        path: the file that is as the backup again.
        kept: a copy of what was there, None where that was equal or nothing.
        aside: what could not be opened, and was moved out of the way.
    """

    path: Path
    kept: Path | None
    aside: Path | None


def back_up(source: Path, into: Path) -> tuple[SourceTable, ...]:
    """Copy the live file, and see that the copy is whole.

    Args:
        source: the live file; the application may go on writing.
        into: the file to make.

    Returns:
        What is in the copy.

    Raises:
        SourceError: the file cannot be read.
        BackupError: it is damaged.
    """
    copy_source(source, into)
    store.onto_disk(into)
    with _reading(into) as copy:
        return figures(copy, shown=str(source))


def figures(connection: sqlite3.Connection, *, shown: str) -> tuple[SourceTable, ...]:
    """All tables of a database, in the order of their names, after an integrity check.

    Rows are digested with their storage classes, in the order in which they lie. What belongs to a
    virtual table lies in tables of its own.

    Raises:
        BackupError: the database is damaged.
    """
    connection.text_factory = _as_it_is
    try:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if said != ["ok"]:
            raise _damaged(shown, "; ".join(said))
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name"
        ).fetchall()
        return tuple(_figures(connection, name) for (name,) in names)
    except sqlite3.DatabaseError as error:
        if _named(error) in _RUINED:
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
    """Make a file equal to a backup's copy, and hold it against what the backup said.

    It keeps its mode, and its owner as far as this user may give it to another one.

    Args:
        copy: the backup's copy, known to be whole.
        onto: the file; it need not be there.
        kept: where to keep what is there now.
        expected: what the backup said of its tables.
        rights: who may do what with a file that is missing; otherwise it is private.

    Raises:
        RestoreRefused: another program keeps the file locked; it is as it was.
        BackupError: it cannot be written, or is not equal afterwards.
    """
    try:
        private.folder(onto.parent)
        missing = not onto.exists()
    except (OSError, FilesError) as error:
        raise _refused(onto, error) from error
    require_room(copy, onto.parent)
    rights = Rights.of(onto) or rights
    keep = aside = None
    if missing or _ruined(onto):
        aside = _replace(onto, copy, rights)
    else:
        try:
            keep = _keep(onto, kept, expected)
            _overwrite(onto, copy)
        except sqlite3.DatabaseError as error:
            if _named(error) not in _RUINED:
                raise _refused(onto, error) from error
            aside = _replace(onto, copy, rights)
    with _translated(onto), closing(_opened(onto, "ro")) as live:
        live.execute("BEGIN")
        if figures(live, shown=str(onto)) != expected:
            raise BackupError(
                f"{onto} differs from the backup",
                remedy="Stop the application, which may have written meanwhile, and restore again",
            )
    return Restored(onto, keep, aside)


def verify_restore(folder: Path, manifest: Manifest, *, scratch: Path) -> None:
    """Restore a backup's copy over a scratch file, as a restore would, and compare.

    Args:
        folder: the backup's.
        manifest: the backup's.
        scratch: a folder for what is restored.

    Raises:
        BackupError: it is not restorable.
    """
    copy = folder / SOURCE_FILE
    store.require_whole(copy, manifest.source_sha256)
    live = private.create(scratch / "live.db")
    with closing(sqlite3.connect(live)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE other (id)")
    restore(copy, live, kept=scratch / "kept.db", expected=manifest.source_tables)


def _figures(connection: sqlite3.Connection, name: str) -> SourceTable:
    whole, rows = hashlib.sha256(), 0
    for row in connection.execute(f"SELECT * FROM {quoted(name)} NOT INDEXED"):
        # No two different rows read alike; a blob, which is long, by its digest.
        values = [hashlib.sha256(v).digest() if isinstance(v, bytes) else v for v in row]
        whole.update(repr(values).encode("utf-8", "surrogatepass"))
        rows += 1
    return SourceTable(name, rows, whole.hexdigest())


def _as_it_is(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _ruined(onto: Path) -> bool:
    """Whether a file is plainly no database; SQLite would change what lies beside it."""
    try:
        validate(onto)
    except SourceError:
        return onto.is_file() and os.access(onto, os.R_OK)
    return False


def _keep(onto: Path, kept: Path, expected: tuple[SourceTable, ...]) -> Path | None:
    """Copy what is there, unless it is what the backup has."""
    private.folder(kept.parent)
    require_room(onto, kept.parent)
    draft = kept.with_name(f"{kept.name}.unfinished")
    draft.unlink(missing_ok=True)
    try:
        private.create(draft)
        with closing(_opened(onto, "rw")) as live, closing(sqlite3.connect(draft)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            carry_over(live, copy, wait=BUSY_SECONDS)
        with _reading(draft) as copy, contextlib.suppress(BackupError):
            if figures(copy, shown=str(onto)) == expected:
                return None
        store.onto_disk(draft)
        return draft.rename(kept)
    finally:
        draft.unlink(missing_ok=True)


def _overwrite(onto: Path, copy: Path) -> None:
    with _reading(copy) as backup, closing(_opened(onto, "rw")) as live:
        if _page(backup) != _page(live) and live.execute("PRAGMA journal_mode").fetchone() == (
            "wal",
        ):
            # In this mode SQLite cannot change the size of pages.
            live.execute("PRAGMA journal_mode = DELETE")
        carry_over(backup, live, wait=BUSY_SECONDS)


def _replace(onto: Path, copy: Path, rights: Rights | None) -> Path | None:
    """Put a copy where no database is; what was there, or lies beside it, is moved aside."""
    draft = onto.with_name(f"{onto.name}.restoring")
    try:
        with copy.open("rb") as held, private.opened(draft, "wb") as file:
            shutil.copyfileobj(held, file, _CHUNK)
            file.flush()
            if rights is not None:
                rights.give(file.fileno())
        store.onto_disk(draft)
        aside = _moved_aside(onto)
        draft.rename(onto)
    except (OSError, FilesError) as error:
        draft.unlink(missing_ok=True)
        raise _refused(onto, error) from error
    return aside


def _moved_aside(onto: Path) -> Path | None:
    aside = onto.with_name(f"{onto.name}.damaged-{store.replaced(onto).stem}")
    for end in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            onto.with_name(onto.name + end).rename(aside.with_name(aside.name + end))
    return aside if aside.exists() else None


@contextmanager
def _reading(copy: Path) -> Iterator[sqlite3.Connection]:
    """A file that nobody writes; no WAL is made beside it."""
    with closing(opening.connect(copy, "immutable")) as connection:
        yield connection


def _opened(path: Path, mode: opening.Mode) -> sqlite3.Connection:
    return opening.connect(path, mode, timeout=0, isolation_level=None)


def _page(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


@contextmanager
def _translated(onto: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _refused(onto, error) from error


def _named(error: sqlite3.Error) -> str:
    """SQLite's own name of what went wrong; the part before a further detail."""
    name = getattr(error, "sqlite_errorname", "") or (
        "SQLITE_BUSY" if "locked" in str(error) else ""
    )
    return "_".join(name.split("_")[:2])


def _refused(onto: Path, error: Exception) -> BackupError:
    if isinstance(error, FilesError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, sqlite3.Error) and _named(error) in _LOCKED:
        return RestoreRefused(
            f"{onto} stayed locked by another program, and is as it was",
            remedy="Let that program finish or close it, then restore again",
        )
    why = error.strerror if isinstance(error, OSError) else error
    return BackupError(
        f"{onto} cannot be written ({why}), and is as it was",
        remedy="Check its folder's permissions and room, then restore again",
    )


def _damaged(shown: str, said: str) -> BackupError:
    return BackupError(
        f"{shown} is damaged ({' '.join(said.split())[:200]})",
        remedy="Restore it from an earlier backup, or recover it with `sqlite3 FILE .recover`",
    )
