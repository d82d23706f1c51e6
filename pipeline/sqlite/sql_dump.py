"""An SQLite file built from a dump, which may create and fill tables and do nothing else.

The file is built under a temporary name and renamed once the dump is complete. It is rebuilt only
if the content of the dump has changed. Virtual tables are skipped, because they are never read; the
tables that store their rows are ordinary tables.
"""

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.statements import STATEMENT_BYTES, Statement, Unfinished, statements

Log = Callable[[str], None]

_REPORT_BYTES = 256 * 2**20
"""The interval between progress messages."""

_MAX_GROWTH = 10
"""The largest ratio of file size to dump size; the file also contains indexes."""

_PAGE = 4096
_SPARE_PAGES = 4096

_PRAGMA = re.compile(rb"PRAGMA\s+(?:foreign_keys|writable_schema)\s*=\s*(?:ON|OFF|0|1)\s*;", re.I)
_BEGINS = re.compile(rb"BEGIN(?:\s+\w+)?(?:\s+TRANSACTION)?\s*;", re.I)
_COMMITS = re.compile(rb"(?:COMMIT|END)(?:\s+TRANSACTION)?\s*;", re.I)
_ROLLS_BACK = re.compile(rb"ROLLBACK\b", re.I)
_VIRTUAL = re.compile(
    rb"CREATE\s+VIRTUAL\s+TABLE\b"
    rb"|INSERT\s+INTO\s+sqlite_(?:schema|master)\s*\([^)]*\)\s*VALUES\s*\(\s*'table'.{1,300}?"
    rb",\s*0\s*,\s*'CREATE\s+VIRTUAL\s+TABLE\b",
    re.I | re.S,
)
_STATISTICS = re.compile(rb"ANALYZE\b|INSERT\s+INTO\s+\W?sqlite_stat\d", re.I)
"""Statistics for SQLite's query planner, which contain no rows of the application."""

_SCHEMA = ("sqlite_master", "sqlite_schema")
_ALLOWED = {
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_TRANSACTION,
}
_DENIED_FUNCTIONS = {
    *("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"),
    *("randomblob", "zeroblob", "printf", "format"),
}


def update_copy(dump: Path, copy: Path, *, log: Log) -> None:
    """Rebuild the SQLite file if the dump has changed since the last build.

    Args:
        dump: the SQL text.
        copy: the SQLite file; the caller holds its lock.
        log: receives progress messages.

    Raises:
        SourceError: the dump cannot be read, is incomplete, or does more than create and fill
            tables; the file does not change.
    """
    state = copy.with_name("dump.json")
    known = _read_state(state) if copy.exists() else {}
    try:
        fingerprint = _fingerprint(dump)
        if known.get("looks") == fingerprint:
            return
        digest = _digest(dump)
        if known.get("digest") != digest:
            _build(dump, copy, log=log)
        if _fingerprint(dump) != fingerprint:
            raise SourceError(
                f"The dump {dump} changed while it was read",
                remedy="Wait until the program that writes it has finished, then run again",
            )
    except OSError as error:
        raise SourceError(
            f"The dump {dump} cannot be read, or its copy {copy} cannot be written"
            f" ({error.strerror})",
            remedy="Check that the dump exists, the permissions of both, and the free disk space",
        ) from error
    private.write_text(state, json.dumps({"looks": fingerprint, "digest": digest}))


def _read_state(state: Path) -> dict[str, object]:
    try:
        found = json.loads(state.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(dump: Path) -> list[int]:
    found = dump.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _digest(dump: Path) -> str:
    with dump.open("rb") as text:
        return hashlib.file_digest(text, "sha256").hexdigest()


@dataclass
class _Progress:
    """How far the transaction of a dump has been executed.

    Attributes:
        skipped: the number of virtual tables.
    """

    begun: bool = False
    ended: bool = False
    skipped: int = 0


def _build(dump: Path, copy: Path, *, log: Log) -> None:
    draft = copy.with_name("making.db")
    draft.unlink(missing_ok=True)
    private.create(draft)
    try:
        size = dump.stat().st_size
        with closing(opening.connect(draft, "rw", isolation_level=None)) as connection:
            _confine(connection, size)
            with dump.open("rb") as text:
                _fill(connection, statements(text), dump=dump, size=size, log=log)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(copy)
    finally:
        draft.unlink(missing_ok=True)


def _confine(connection: sqlite3.Connection, size: int) -> None:
    """Allow statements only to create and fill tables, within a limited size."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA page_size = {_PAGE}")
    connection.execute(f"PRAGMA max_page_count = {_SPARE_PAGES + size * _MAX_GROWTH // _PAGE}")
    # SQLite's shell writes unistr() since 3.50; older libraries lack it.
    connection.create_function("unistr", 1, _unistr, deterministic=True)
    connection.set_authorizer(_authorize)


def _authorize(
    action: int, first: str | None, second: str | None, _database: str | None, trigger: str | None
) -> int:
    allowed = (
        action in _ALLOWED
        or (action == sqlite3.SQLITE_UPDATE and first in _SCHEMA)
        or (action == sqlite3.SQLITE_DELETE and first == "sqlite_sequence")
        or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() not in _DENIED_FUNCTIONS)
    )
    # A dump creates triggers after the rows, so no trigger has to run.
    return sqlite3.SQLITE_OK if allowed and trigger is None else sqlite3.SQLITE_DENY


def _fill(
    connection: sqlite3.Connection,
    found: Iterator[Statement],
    *,
    dump: Path,
    size: int,
    log: Log,
) -> None:
    progress, line, reported = _Progress(), 0, 0
    connection.execute("BEGIN")
    try:
        for statement in found:
            line = statement.line
            _process(connection, statement, progress, dump)
            if statement.end - reported >= _REPORT_BYTES:
                reported = statement.end
                log(f"{dump}: {reported / 2**20:,.0f} of {size / 2**20:,.0f} MiB read")
    except Unfinished as error:
        raise _incomplete(dump, error, begun=progress.begun) from None
    if not progress.ended:
        raise SourceError(
            f"The dump {dump} is incomplete: it ends after line {line} without COMMIT"
            if progress.begun
            else f"{dump} is not a dump: it contains no BEGIN TRANSACTION",
            remedy="Create it again with turso db shell NAME .dump, and wait until that finishes",
        )
    connection.execute("COMMIT")
    if progress.skipped:
        log(f"{dump}: {progress.skipped} virtual tables were skipped; they are never read")


def _process(
    connection: sqlite3.Connection, statement: Statement, progress: _Progress, dump: Path
) -> None:
    """Execute a statement of a dump; reject other statements."""
    sql = statement.sql
    if _ROLLS_BACK.match(sql):
        raise SourceError(
            f"The dump {dump} ends with ROLLBACK in line {statement.line}: the shell that wrote it"
            " found an error in the database",
            remedy="See the comment next to it, and create the dump again",
        )
    if _PRAGMA.fullmatch(sql) or _STATISTICS.match(sql):
        return
    if not progress.begun and _BEGINS.fullmatch(sql):
        progress.begun = True
    elif not progress.begun or progress.ended:
        where = "after COMMIT" if progress.ended else "before BEGIN TRANSACTION"
        raise SourceError(
            f"{dump} is not a dump: line {statement.line} has a statement {where}",
            remedy="Use a file that was written by turso db shell NAME .dump",
        )
    elif _COMMITS.fullmatch(sql):
        progress.ended = True
    elif _VIRTUAL.match(sql):
        progress.skipped += 1
    else:
        _execute(connection, statement, dump)


def _execute(connection: sqlite3.Connection, statement: Statement, dump: Path) -> None:
    try:
        sql = _text(statement.sql)
        if _CREATES.match(sql):
            collations.stand_in_for(connection, sql)
        connection.execute(sql)
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        why = str(error) or "no memory"
    else:
        return
    if "prohibited" in why or "not authorized" in why:
        raise SourceError(
            f"Line {statement.line} of the dump {dump} does more than create and fill tables"
            f" ({why}); the dump was rejected",
            remedy="Remove that statement if you trust the author of the dump",
        )
    if "full" in why:
        raise SourceError(
            f"There is no space for the copy of the dump {dump} (line {statement.line})",
            remedy="Free space in PIPELINE_HOME and run again",
        )
    raise SourceError(
        f"Line {statement.line} of the dump {dump} cannot be executed ({why})",
        remedy="Create the dump again, or correct that statement",
    )


_CREATES = re.compile(r"CREATE\b", re.IGNORECASE)
_QUOTED = re.compile(rb"""'(?:[^']|'')*+'|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]""")


def _text(sql: bytes) -> str:
    """Decode a statement; values that are not UTF-8 become hexadecimal literals.

    Rows with such values then equal those of the database, and can be quarantined.

    Raises:
        UnicodeDecodeError: another part than a value is not UTF-8.
    """
    try:
        return sql.decode()
    except UnicodeDecodeError:
        return _QUOTED.sub(_hex_literal, sql).decode()


def _hex_literal(found: re.Match[bytes]) -> bytes:
    whole = found.group()
    if not whole.startswith(b"'"):
        return whole
    try:
        whole.decode()
    except UnicodeDecodeError:
        value = whole[1:-1].replace(b"''", b"'")
        return b"CAST(X'" + value.hex().encode() + b"' AS TEXT)"
    return whole


def _incomplete(dump: Path, error: Unfinished, *, begun: bool) -> SourceError:
    if error.long:
        return SourceError(
            f"The statement in line {error.line} of {dump} is longer than"
            f" {STATEMENT_BYTES / 2**20:.0f} MiB",
            remedy="Use the database itself as the source",
        )
    if not begun:
        return SourceError(
            f"{dump} is not a dump: line {error.line} begins a statement that never ends",
            remedy="Use a file that was written by turso db shell NAME .dump",
        )
    return SourceError(
        f"The dump {dump} is incomplete: it ends within the statement that begins in line"
        f" {error.line}",
        remedy="Create it again with turso db shell NAME .dump, and wait until that finishes",
    )


_ESCAPE = re.compile(
    r"\\(?:\\|u([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|U([0-9A-Fa-f]{8})|([0-9A-Fa-f]{4}))"
)


def _unistr(text: str | None) -> str | None:
    """SQLite's function unistr(), for libraries that lack it."""

    def letter(found: re.Match[str]) -> str:
        digits = next((group for group in found.groups() if group), None)
        return "\\" if digits is None else chr(int(digits, 16))

    return None if text is None else _ESCAPE.sub(letter, text)
