"""A dump, made into an SQLite file: whoever wrote it can make and fill tables, and nothing else.

The file is made under another name and takes its own only when the dump has ended as dumps end. It
is made anew when the dump holds other bytes, and only then. Virtual tables are left out, as they
are not read; the tables in which they keep their rows are ordinary ones.
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
from pipeline.sqlite.statements import STATEMENT_BYTES, Statement, Unfinished, statements

Log = Callable[[str], None]

_TOLD_BYTES = 256 * 2**20
"""After so much of a dump it is said how far it is."""

_ROOM = 10
"""The file may be so many times as large as the dump, because indexes are in it."""

_PAGE = 4096
_SPARE_PAGES = 4096

_SETS = re.compile(rb"PRAGMA\s+(?:foreign_keys|writable_schema)\s*=\s*(?:ON|OFF|0|1)\s*;", re.I)
_BEGINS = re.compile(rb"BEGIN(?:\s+\w+)?(?:\s+TRANSACTION)?\s*;", re.I)
_COMMITS = re.compile(rb"(?:COMMIT|END)(?:\s+TRANSACTION)?\s*;", re.I)
_ROLLS_BACK = re.compile(rb"ROLLBACK\b", re.I)
_VIRTUAL = re.compile(
    rb"CREATE\s+VIRTUAL\s+TABLE\b"
    rb"|INSERT\s+INTO\s+sqlite_(?:schema|master)\s*\([^)]*\)\s*VALUES\s*\(\s*'table'.{1,300}?"
    rb",\s*0\s*,\s*'CREATE\s+VIRTUAL\s+TABLE\b",
    re.I | re.S,
)
_FOR_PLANS = re.compile(rb"ANALYZE\b|INSERT\s+INTO\s+\W?sqlite_stat\d", re.I)
"""What helps SQLite to plan a query, and holds no row of the application."""

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


def bring(dump: Path, into: Path, *, log: Log) -> None:
    """Make the file, where the dump has changed since it was made.

    Args:
        dump: the text.
        into: the file; nobody else makes it meanwhile.
        log: told what takes long.

    Raises:
        SourceError: the dump cannot be read, is not whole, or does more than make and fill tables;
            the file is as it was.
    """
    kept = into.with_name("dump.json")
    known = _known(kept) if into.exists() else {}
    try:
        looks = _looks(dump)
        if known.get("looks") == looks:
            return
        digest = _digest(dump)
        if known.get("digest") != digest:
            _make(dump, into, log=log)
        if _looks(dump) != looks:
            raise SourceError(
                f"The dump {dump} was written while it was read",
                remedy="Wait until whoever writes it has ended, then run again",
            )
    except OSError as error:
        raise SourceError(
            f"The dump {dump} cannot be read, or its file {into} not be written ({error.strerror})",
            remedy="Check that it is there, the rights of both, and the room on the disk",
        ) from error
    private.write_text(kept, json.dumps({"looks": looks, "digest": digest}))


def _known(kept: Path) -> dict[str, object]:
    try:
        found = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _looks(dump: Path) -> list[int]:
    found = dump.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _digest(dump: Path) -> str:
    with dump.open("rb") as text:
        return hashlib.file_digest(text, "sha256").hexdigest()


@dataclass
class _Progress:
    """How far a dump has been read.

    Attributes:
        begun: its transaction has begun.
        ended: and has ended.
        left_out: how many virtual tables were.
    """

    begun: bool = False
    ended: bool = False
    left_out: int = 0


def _make(dump: Path, into: Path, *, log: Log) -> None:
    made = into.with_name("making.db")
    made.unlink(missing_ok=True)
    private.create(made)
    try:
        size = dump.stat().st_size
        with closing(opening.connect(made, "rw", isolation_level=None)) as connection:
            _confine(connection, size)
            with dump.open("rb") as text:
                _fill(connection, statements(text), dump=dump, size=size, log=log)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(into)
    finally:
        made.unlink(missing_ok=True)


def _confine(connection: sqlite3.Connection, size: int) -> None:
    """Let statements do no more than make and fill tables, in bounded room."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA page_size = {_PAGE}")
    connection.execute(f"PRAGMA max_page_count = {_SPARE_PAGES + size * _ROOM // _PAGE}")
    # SQLite's shell writes it since 3.50; older libraries do not know it.
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
    # Triggers are made after the rows; none is meant to act.
    return sqlite3.SQLITE_OK if allowed and trigger is None else sqlite3.SQLITE_DENY


def _fill(
    connection: sqlite3.Connection,
    found: Iterator[Statement],
    *,
    dump: Path,
    size: int,
    log: Log,
) -> None:
    done, line, told = _Progress(), 0, 0
    connection.execute("BEGIN")
    try:
        for statement in found:
            line = statement.line
            _take(connection, statement, done, dump)
            if statement.end - told >= _TOLD_BYTES:
                told = statement.end
                log(f"{dump}: {told / 2**20:,.0f} of {size / 2**20:,.0f} MiB read")
    except Unfinished as error:
        raise _broken(dump, error, begun=done.begun) from None
    if not done.ended:
        raise SourceError(
            f"The dump {dump} has no COMMIT; at its end: it breaks off after line {line}"
            if done.begun
            else f"{dump} is no dump: nothing in it begins with BEGIN TRANSACTION;",
            remedy="Make it anew with turso db shell NAME .dump, and wait until that has ended",
        )
    connection.execute("COMMIT")
    if done.left_out:
        log(f"{dump}: {done.left_out} virtual tables are left out; they are not read")


def _take(
    connection: sqlite3.Connection, statement: Statement, done: _Progress, dump: Path
) -> None:
    """Execute a statement, if it is one that a dump has."""
    sql = statement.sql
    if _ROLLS_BACK.match(sql):
        raise SourceError(
            f"The dump {dump} ends with ROLLBACK in line {statement.line}: the shell that wrote it"
            " met an error in the database",
            remedy="Look at the comment beside it, and make the dump anew",
        )
    if _SETS.fullmatch(sql) or _FOR_PLANS.match(sql):
        return
    if not done.begun and _BEGINS.fullmatch(sql):
        done.begun = True
    elif not done.begun or done.ended:
        where = "after its COMMIT;" if done.ended else "before its BEGIN TRANSACTION;"
        raise SourceError(
            f"{dump} is no dump: line {statement.line} has a statement {where}",
            remedy="Name a text as turso db shell NAME .dump writes it",
        )
    elif _COMMITS.fullmatch(sql):
        done.ended = True
    elif _VIRTUAL.match(sql):
        done.left_out += 1
    else:
        _execute(connection, statement, dump)


def _execute(connection: sqlite3.Connection, statement: Statement, dump: Path) -> None:
    try:
        connection.execute(_text(statement.sql))
    except UnicodeDecodeError:
        why = "it is no UTF-8"
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        why = str(error) or "no memory"
    else:
        return
    if "prohibited" in why or "not authorized" in why:
        raise SourceError(
            f"Line {statement.line} of the dump {dump} does more than make and fill tables ({why});"
            " nothing of it was taken over",
            remedy="Take that statement out, if you trust whoever wrote it",
        )
    if "full" in why:
        raise SourceError(
            f"The file of the dump {dump} found no room at line {statement.line}",
            remedy="Free some space in PIPELINE_HOME and run again",
        )
    raise SourceError(
        f"Line {statement.line} of the dump {dump} cannot be executed ({why})",
        remedy="Make the dump anew, or correct that statement",
    )


_QUOTED = re.compile(rb"""'(?:[^']|'')*+'|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]""")


def _text(sql: bytes) -> str:
    """A statement as SQLite takes it; a value that is no text is spelled by its bytes.

    Such a row reaches the file as it was in the database, and quarantine as any other.

    Raises:
        UnicodeDecodeError: something else than a value is no text.
    """
    try:
        return sql.decode()
    except UnicodeDecodeError:
        return _QUOTED.sub(_spelled, sql).decode()


def _spelled(found: re.Match[bytes]) -> bytes:
    whole = found.group()
    if not whole.startswith(b"'"):
        return whole
    try:
        whole.decode()
    except UnicodeDecodeError:
        value = whole[1:-1].replace(b"''", b"'")
        return b"CAST(X'" + value.hex().encode() + b"' AS TEXT)"
    return whole


def _broken(dump: Path, error: Unfinished, *, begun: bool) -> SourceError:
    if error.long:
        return SourceError(
            f"The statement in line {error.line} of {dump} is longer than"
            f" {STATEMENT_BYTES / 2**20:.0f} MiB",
            remedy="Take the database itself as the source",
        )
    if not begun:
        return SourceError(
            f"{dump} is no dump: line {error.line} begins a statement that never ends",
            remedy="Name a text as turso db shell NAME .dump writes it",
        )
    return SourceError(
        f"The dump {dump} breaks off within the statement that begins in line {error.line}",
        remedy="Make it anew with turso db shell NAME .dump, and wait until that has ended",
    )


_ESCAPE = re.compile(
    r"\\(?:\\|u([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|U([0-9A-Fa-f]{8})|([0-9A-Fa-f]{4}))"
)


def _unistr(text: str | None) -> str | None:
    """SQLite's own function of that name, for libraries that lack it."""

    def letter(found: re.Match[str]) -> str:
        digits = next((group for group in found.groups() if group), None)
        return "\\" if digits is None else chr(int(digits, 16))

    return None if text is None else _ESCAPE.sub(letter, text)
