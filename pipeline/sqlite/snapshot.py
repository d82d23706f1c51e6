"""One consistent, private copy of the source, taken while the application goes on writing.

Bulk readers never touch the live file: they bring their own SQLite library, and two libraries on
one file in one process drop each other's POSIX locks ("How To Corrupt An SQLite Database File",
section 2.2.1). The copy belongs to one run, is never written again once it is taken, and can
therefore be opened as immutable, without any lock.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.messages import SOURCE_SETTING, message
from pipeline.core.quoting import quoted
from pipeline.mapping import row_key
from pipeline.mapping.row_key import KeyNotSupported, RowKey
from pipeline.sqlite import followed, opening

MAGIC = b"SQLite format 3\x00"
_HEADER = 100
BUSY_SECONDS = 30.0
"""How long a locked source is waited for."""

_COMPUTED = 2
"""What ``table_xinfo`` says of a column that is computed whenever it is read."""

_SETTLED_SECONDS = 1.0
"""Two writes within the grain of a file system's clock leave the same time."""


@dataclass(frozen=True)
class Snapshot:
    """A finished copy.

    Attributes:
        path: the copy; immutable from now on.
        source: the file it was taken from.
        bytes: its size.
        seconds: how long the copy took.
        fingerprint: what the file looked like just before, see ``fingerprint_of``.
    """

    path: Path
    source: Path
    bytes: int
    seconds: float
    fingerprint: str | None = None


def take_snapshot(
    source: Path, into: Path, *, tables: Iterable[sa.Table], busy_seconds: float = BUSY_SECONDS
) -> Snapshot:
    """Copy the source in one step and prepare the copy for reading in key order.

    Args:
        source: the live SQLite file; it is opened read-only.
        into: the file to make; an older one is replaced.
        tables: the tables that will be read.
        busy_seconds: how long a locked source is waited for.

    Raises:
        SourceError: the file is missing, empty, encrypted, no database, truncated, locked, lacks
            one of the tables, or there is no room for the copy.
    """
    started = time.perf_counter()
    validate(source)
    fingerprint = fingerprint_of(source)
    size = source.stat().st_size
    copy_source(source, into, busy_seconds=busy_seconds)
    try:
        with closing(opening.connect(into, "rw")) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            for table in tables:
                _prepare(copy, table, source, into)
            copy.commit()
    except opening.UNREADABLE as error:
        into.unlink(missing_ok=True)
        raise unreadable(source, error, copy=into) from error
    return Snapshot(into, source, size, time.perf_counter() - started, fingerprint)


def copy_source(source: Path, into: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
    """Copy the source in one step, page by page.

    Args:
        source: the live SQLite file; it is opened read-only.
        into: the file to make; an older one is replaced.
        busy_seconds: how long a locked source is waited for.

    Raises:
        SourceError: the file cannot be read, or there is no room for the copy.
    """
    validate(source)
    private.folder(into.parent)
    require_room(source, into.parent)
    into.unlink(missing_ok=True)
    try:
        _copy(source, into, busy_seconds=busy_seconds)
    except opening.UNREADABLE as error:
        into.unlink(missing_ok=True)
        raise unreadable(source, error, copy=into) from error


def require_room(source: Path, folder: Path) -> None:
    """See whether a copy of a file has room in a folder.

    Raises:
        SourceError: it has not.
    """
    size, free = source.stat().st_size, shutil.disk_usage(folder).free
    if free < size * 1.1:
        raise SourceError(
            f"The copy of {source} needs {size / 2**20:.0f} MiB in {folder},"
            f" which has {free / 2**20:.0f} MiB free",
            remedy="Free some space there and run again",
        )


def carry_over(source: sqlite3.Connection, into: sqlite3.Connection, *, wait: float) -> None:
    """Make one database equal to another in one step, which is one transaction.

    Args:
        source: the one that is read.
        into: the one that is replaced.
        wait: how many seconds a lock on either is waited for.

    Raises:
        sqlite3.DatabaseError: either stayed locked, or cannot be read or written.
    """
    deadline = time.monotonic() + wait

    def stop_when_locked(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    source.backup(into, progress=stop_when_locked, sleep=0.05)


def fingerprint_of(source: Path) -> str | None:
    """What a file looks like from outside; it looks otherwise once it has been written.

    Returns:
        None while it was written so recently that a further write might not show in its time.
    """
    looks = [str(source.absolute())]
    for path in (source, source.with_name(f"{source.name}-wal")):
        try:
            found = path.stat()
        except FileNotFoundError:
            looks.append("none")
            continue
        if time.time_ns() - found.st_mtime_ns < _SETTLED_SECONDS * 10**9:
            return None
        looks.append(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}")
    return "; ".join(looks)


def unreadable(source: Path, error: Exception, *, copy: Path | None = None) -> SourceError:
    """Translate what SQLite says of a file that it cannot read.

    Args:
        source: the file.
        error: what SQLite said.
        copy: the private file that was written meanwhile.
    """
    text = "it is no text" if isinstance(error, UnicodeDecodeError) else str(error) or "no memory"
    if "locked" in text or "busy" in text:
        return SourceError(
            f"The source {source} stayed locked by another program",
            remedy="Let that program finish its transaction, then run again",
        )
    if "readonly" in text:
        return SourceError(
            f"The source {source} has an unfinished transaction in {source.name}-journal,"
            " left by a program that was killed",
            remedy="Start and close the application once to roll it back, then run again",
        )
    if "is full" in text:
        return SourceError(
            f"The copy of {source} found no room in {copy.parent}"
            if copy
            else f"The disk of {source} is full",
            remedy="Free space on that disk, and run again",
        )
    if (
        "malformed" in text
        or "not a database" in text
        or "I/O" in text
        or "corrupt" in text
        or text == "it is no text"
    ):
        return SourceError(
            f"The source {source} is damaged or truncated ({text.splitlines()[0]})",
            remedy="Restore it from a backup, or recover it with `sqlite3 FILE .recover`",
        )
    return SourceError(
        f"The source {source} cannot be read ({text.splitlines()[0]})",
        remedy="Check the file and its permissions",
    )


def validate(source: Path) -> None:
    """See whether a file can be an SQLite database at all.

    Raises:
        SourceError: it is missing, empty, encrypted, truncated or something else.
    """
    try:
        if not source.exists():
            raise SourceError(
                f"There is no source at {source}",
                remedy=message("Set ", SOURCE_SETTING, " to sqlite:///PATH of the SQLite file"),
            )
        if not source.is_file():
            raise SourceError(
                f"The source {source} is not a file", remedy="Name the SQLite file itself"
            )
        with source.open("rb") as file:
            head = file.read(_HEADER)
    except OSError as error:
        raise SourceError(
            f"The source {source} cannot be opened ({error.strerror})",
            remedy="Check its name, and give this user the right to read it",
        ) from error
    if not head:
        raise SourceError(
            f"The source {source} is empty (0 bytes)",
            remedy=message("Check that ", SOURCE_SETTING, " names the right file"),
        )
    if head[:16] != MAGIC:
        looks_random = sum(byte > 127 for byte in head[:64]) > 16
        raise SourceError(
            f"The source {source} is {'encrypted, or ' if looks_random else ''}no SQLite database",
            remedy="Export a plain SQLite copy first"
            if looks_random
            else message("Check that ", SOURCE_SETTING, " names the right file"),
        )
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if len(head) < _HEADER or not page or source.stat().st_size % page:
        raise SourceError(
            f"The source {source} is truncated: its size is not a whole number of pages",
            remedy="Copy it again, or restore it from a backup",
        )


@contextmanager
def writing(source: Path, *, why: str) -> Iterator[sqlite3.Connection]:
    """One transaction that writes the source, where it lives; an exception undoes it.

    Args:
        source: the live file.
        why: what needs that, for people.

    Raises:
        SourceError: the file cannot be written, or stays locked.
    """
    validate(source)
    primary = followed.primary_of(source, why=why)
    if primary is not None:
        with primary.writing(source, why=why) as connection:
            yield connection
        return
    try:
        with closing(
            opening.connect(source, "rw", timeout=BUSY_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
    except opening.UNREADABLE as error:
        if "readonly" in str(error):
            raise SourceError(
                f"The source {source} cannot be written, which {why} needs",
                remedy="Give this user the right to write it",
            ) from error
        raise unreadable(source, error) from error


def _copy(source: Path, into: Path, *, busy_seconds: float) -> None:
    with (
        closing(opening.connect(source, "ro", timeout=0)) as live,
        closing(opening.connect(into, "rwc")) as copy,
    ):
        copy.execute("PRAGMA synchronous = OFF")
        copy.execute("PRAGMA journal_mode = OFF")
        carry_over(live, copy, wait=busy_seconds)


def _prepare(copy: sqlite3.Connection, table: sa.Table, source: Path, into: Path) -> None:
    """Check that the table is there, and index its key where the source does not."""
    require_table(copy, table, source)
    require_computable(copy, table, source, path=into)
    key = RowKey.of(table).name
    columns = {row[1]: row for row in copy.execute(f"PRAGMA table_info({quoted(table.name)})")}
    if key in columns and not columns[key][5]:
        index = quoted(f"pipeline key of {table.name}")
        copy.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table.name)} ({quoted(key)})")


def require_table(
    connection: sqlite3.Connection, table: sa.Table, source: Path, *, schema: str = "main"
) -> None:
    """Check that a connection sees a table, and that one column tells its rows apart.

    Raises:
        SourceError: it is not there, or is a view or a virtual table, which would run code.
        KeyNotSupported: its key, as it is declared or in the source, is not one column.
    """
    kind = connection.execute(
        f"SELECT type, rootpage FROM {schema}.sqlite_master WHERE name = ?", (table.name,)
    ).fetchone()
    if kind is None or kind[0] not in ("table", b"table"):
        raise SourceError(
            f"The source {source} has no table {table.name}",
            remedy=message("Check that ", SOURCE_SETTING, " names the application's database"),
        )
    if not kind[1]:
        raise SourceError(
            f"{table.name} of the source {source} is a virtual table, which is not read",
            remedy=message("Check that ", SOURCE_SETTING, " names the application's database"),
        )
    key, name = RowKey.of(table), quoted(table.name)
    info = connection.execute(f"PRAGMA {schema}.table_info({name})").fetchall()
    primary = {row[5]: _text(row[1]) for row in info if row[5]}
    if len(primary) > 1:
        columns = [primary[at] for at in sorted(primary)]
        raise KeyNotSupported(
            f"{table.name} of the source {source} has {row_key.described(columns)}",
            remedy=f"Give it a primary key of one column, {key.name}; nothing was changed",
        )
    if key.name not in primary.values() and primary and _has_no_rowid(connection, name, schema):
        raise KeyNotSupported(
            f"{table.name} of the source {source} has the primary key {primary[1]} and no rowid,"
            f" so {key.name} need not tell its rows apart",
            remedy=f"Make {key.name} its primary key; nothing was changed",
        )


def require_computable(
    connection: sqlite3.Connection,
    table: sa.Table,
    source: Path,
    *,
    schema: str = "main",
    path: Path | None = None,
    busy_seconds: float = 0.0,
) -> None:
    """Check that columns which are computed when they are read can be; most tables have none.

    Args:
        connection: one that sees the table.
        table: the table.
        source: what messages call the file.
        schema: the name by which the connection knows it.
        path: the file that is read, if it is not the source itself.
        busy_seconds: how long a locked file is waited for.

    Raises:
        SourceError: they take too much, or cannot be computed.
    """
    info = connection.execute(f"PRAGMA {schema}.table_xinfo({quoted(table.name)})").fetchall()
    computed = [row[1] for row in info if row[6] == _COMPUTED]
    if computed:
        opening.require_computable(
            path or source, table.name, computed, source=source, busy_seconds=busy_seconds
        )


def _text(name: object) -> str:
    # A connection for rows of the source delivers texts as bytes.
    return name.decode() if isinstance(name, bytes) else str(name)


def _has_no_rowid(connection: sqlite3.Connection, name: str, schema: str) -> bool:
    found = connection.execute(f"PRAGMA {schema}.table_list({name})").fetchall()
    return any(_text(row[2]) == "table" and row[4] for row in found)
