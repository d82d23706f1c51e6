"""A consistent, private copy of the source, taken while the application continues to write.

Bulk readers never open the live file: they use their own SQLite library, and two libraries with the
same file open in one process drop each other's POSIX locks ("How To Corrupt An SQLite Database
File", section 2.2.1). A finished copy belongs to one run and is never written again, so it can be
opened as immutable, without locks.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.messages import SOURCE_SETTING, message
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.mapping.row_key import RowKey
from pipeline.sqlite import copy_markers, opening
from pipeline.sqlite.catalog import change_log, collations, plain_tables
from pipeline.sqlite.catalog.change_log import LOG, Position
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.tables import require_computable, require_table

MAGIC = b"SQLite format 3\x00"
_HEADER = 100
BUSY_SECONDS = 30.0
"""How long to wait for a locked source."""

_SETTLED_SECONDS = 1.0
"""Two writes within the resolution of a file system's clock leave the same time."""


@dataclass(frozen=True)
class Snapshot:
    """A finished copy.

    Attributes:
        path: the copy, which is immutable.
        source: the live file.
        bytes: the size of the source.
        seconds: the duration of the copy.
        fingerprint: the ``fingerprint_of`` the source just before the copy.
        collations: the source's collations other than BINARY by table and column, in lower case;
            the copy compares exactly.
        positions: the ends of the change log by table, where the copy has lost its triggers.
    """

    path: Path
    source: Path
    bytes: int
    seconds: float
    fingerprint: str | None = None
    collations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    positions: Mapping[str, Position | None] = field(default_factory=dict)


def take_snapshot(
    source: Path, into: Path, *, tables: Iterable[sa.Table], busy_seconds: float = BUSY_SECONDS
) -> Snapshot:
    """Copy the source in one step and prepare the copy for reading in key order.

    In the copy, texts are in UTF-8 and compare exactly, whatever the source declares.

    Args:
        source: the live SQLite file, which is opened read-only.
        into: the copy; an existing file is replaced.
        tables: the tables to read.
        busy_seconds: how long to wait for a locked source.

    Raises:
        SourceError: the source is missing, empty, encrypted, not a database, truncated or locked,
            lacks a table, or there is no space for the copy.
    """
    started, tables = time.perf_counter(), list(tables)
    validate(source)
    fingerprint = fingerprint_of(source)
    size = source.stat().st_size
    copy_source(source, into, busy_seconds=busy_seconds)
    try:
        with _private(into) as copy:
            for table in tables:
                require_table(copy, table, source)
                require_computable(copy, table, source, path=into)
            declared = {t.name: collations.of_columns(copy, t.name) for t in tables}
            positions = {t.name: change_log.position(copy, t) for t in tables}
            encoding = plain_tables.utf16(copy)
            for table in tables if encoding is None else ():
                if collations.named_by(copy, table.name):
                    plain_tables.rebuild(copy, table.name)
        if tables and encoding is not None:
            _convert(into, tables, encoding)
        with _private(into) as copy:
            for table in tables:
                _index_key(copy, table)
    except opening.UNREADABLE as error:
        into.unlink(missing_ok=True)
        raise unreadable(source, error, copy=into) from error
    seconds = time.perf_counter() - started
    return Snapshot(into, source, size, seconds, fingerprint, declared, positions)


def copy_source(source: Path, into: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
    """Copy the source in one step; arguments as in ``take_snapshot``.

    Raises:
        SourceError: the source cannot be read, or there is no space for the copy.
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
    """Require disk space for a copy of a file.

    Raises:
        SourceError: there is too little.
    """
    size, free = source.stat().st_size, shutil.disk_usage(folder).free
    if free < size * 1.1:
        raise SourceError(
            f"The copy of {source} needs {size / 2**20:.0f} MiB in {folder},"
            f" which has {free / 2**20:.0f} MiB free",
            remedy="Free space there and run again",
        )


def carry_over(source: sqlite3.Connection, into: sqlite3.Connection, *, wait: float) -> None:
    """Replace the content of a database with that of another, in one transaction.

    Wait ``wait`` seconds for a lock on either.

    Raises:
        sqlite3.DatabaseError: a database stayed locked, or cannot be read or written.
    """
    deadline = time.monotonic() + wait

    def stop_when_locked(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    source.backup(into, progress=stop_when_locked, sleep=0.05)


def fingerprint_of(source: Path) -> str | None:
    """Inode, size and time of a file and its WAL, which change when the file is written.

    Returns:
        None if the file was written so recently that a further write might leave the same time.
    """
    parts = [str(source.absolute())]
    for path in (source, source.with_name(f"{source.name}-wal")):
        try:
            found = path.stat()
        except FileNotFoundError:
            parts.append("none")
            continue
        if time.time_ns() - found.st_mtime_ns < _SETTLED_SECONDS * 10**9:
            return None
        parts.append(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}")
    return "; ".join(parts)


def validate(source: Path) -> None:
    """Check that a file is an SQLite database, by its header and size.

    Raises:
        SourceError: it is missing, empty, encrypted, truncated or another kind of file.
    """
    try:
        if not source.exists():
            raise SourceError(
                f"There is no source at {source}",
                remedy=message("Set ", SOURCE_SETTING, " to sqlite:///PATH of the SQLite file"),
            )
        if not source.is_file():
            raise SourceError(
                f"The source {source} is not a file", remedy="Use the path of an SQLite file"
            )
        with source.open("rb") as file:
            head = file.read(_HEADER)
    except OSError as error:
        raise SourceError(
            f"The source {source} cannot be opened ({error.strerror})",
            remedy="Check its path, and give this user read permission",
        ) from error
    if not head:
        raise SourceError(
            f"The source {source} is empty (0 bytes)",
            remedy=message("Check that ", SOURCE_SETTING, " names the right file"),
        )
    if head[:16] != MAGIC:
        looks_random = sum(byte > 127 for byte in head[:64]) > 16
        raise SourceError(
            f"The source {source} is {'encrypted or ' if looks_random else ''}not an SQLite"
            " database",
            remedy="Export a plain SQLite copy first"
            if looks_random
            else message("Check that ", SOURCE_SETTING, " names the right file"),
        )
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if len(head) < _HEADER or not page or source.stat().st_size % page:
        raise SourceError(
            f"The source {source} is truncated: its size is not a multiple of the page size",
            remedy="Copy it again, or restore it from a backup",
        )


@contextmanager
def writing(source: Path, *, why: str) -> Iterator[sqlite3.Connection]:
    """Run a transaction on the source, or on the primary of a copy; an exception rolls back.

    ``why`` is the reason in messages.

    Raises:
        SourceError: the source cannot be written, or stays locked.
    """
    validate(source)
    primary = copy_markers.primary_of(source, why=why)
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
                f"The source {source} cannot be written, which {why} requires",
                remedy="Give this user write permission",
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


@contextmanager
def _private(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes a private copy, in one transaction."""
    with closing(opening.connect(path, "rw")) as copy:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF"):
            copy.execute(f"PRAGMA {setting}")
        collations.stand_in(copy)
        yield copy
        copy.commit()


def _convert(path: Path, tables: Sequence[sa.Table], encoding: str) -> None:
    """Replace a private copy whose texts are in UTF-16 by plain tables in UTF-8."""
    draft = path.with_name(f"{path.name}.utf8")
    draft.unlink(missing_ok=True)
    private.create(draft)
    with closing(opening.connect(path, "immutable")) as raw, _private(draft) as into:
        collations.stand_in(raw)
        logged = [LOG] if change_log.log_exists(raw) else []
        for name in (*(table.name for table in tables), *logged):
            plain_tables.transcode(raw, into, name, encoding=encoding)
    draft.replace(path)


def _index_key(copy: sqlite3.Connection, table: sa.Table) -> None:
    """Index the key of a table if the copy has no index."""
    key = RowKey.of(table).name
    columns = {
        folded(row[1]): row for row in copy.execute(f"PRAGMA table_info({quoted(table.name)})")
    }
    if folded(key) in columns and not columns[folded(key)][5]:
        index = quoted(f"pipeline key of {table.name}")
        copy.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table.name)} ({quoted(key)})")
