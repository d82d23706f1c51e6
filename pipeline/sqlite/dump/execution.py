"""Execution of the statements of a dump, which may create and fill tables and do nothing else.

What holds no rows is skipped where it cannot be executed: settings, statistics, virtual tables, and
indexes that need functions or collations of the application. Triggers are created after all rows,
because a dump contains the rows that they have written.
"""

import re
import sqlite3
from dataclasses import dataclass, field

from pipeline.core.errors import SourceError
from pipeline.sqlite.catalog.collations import compare_exactly
from pipeline.sqlite.dump.statements import STATEMENT_BYTES, Statement

_NAME = rb"""(?:\w+|"[^"]*"|'[^']*'|`[^`]*`|\[[^\]]*\])"""
_BEGINS = re.compile(rb"BEGIN(?:\s+\w+)?(?:\s+TRANSACTION)?\s*;", re.I)
_COMMITS = re.compile(rb"(?:COMMIT|END)(?:\s+TRANSACTION)?\s*;", re.I)
_ROLLS_BACK = re.compile(rb"ROLLBACK\b", re.I)
_SHELL = re.compile(rb"\.dbconfig\s[^\n]*\n\s*", re.I)
"""What ``.recover`` writes first, for the shell."""
_COMMAND = re.compile(rb"\.(\w+)")
_VIRTUAL = re.compile(
    rb"CREATE\s+VIRTUAL\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(" + _NAME + rb")"
    rb"|INSERT\s+INTO\s+sqlite_(?:schema|master)\s*\([^)]*\)\s*VALUES\s*\(\s*'table'\s*,\s*"
    rb"('(?:[^']|'')*').{1,300}?,\s*0\s*,\s*'CREATE\s+VIRTUAL\s+TABLE\b",
    re.I | re.S,
)
_INTO = re.compile(
    rb"(?:INSERT(?:\s+OR\s+\w+)?|REPLACE)\s+INTO\s+(?:" + _NAME + rb"\s*\.\s*)?(" + _NAME + rb")",
    re.I,
)
_WITHOUT_ROWS = re.compile(
    rb"PRAGMA\b|ANALYZE\b|INSERT\s+INTO\s+\W?sqlite_stat\d"
    rb"|CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?\W?sqlite_(?:stat\d|sequence)\b",
    re.I,
)
"""Settings, statistics for SQLite's query planner, and tables that SQLite creates itself."""
_INDEX = re.compile(
    rb"CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?(" + _NAME + rb")", re.I
)
_TRIGGER = re.compile(rb"CREATE\s+TRIGGER\b", re.I)
_COUNTERS = re.compile(rb"(?:DELETE\s+FROM|INSERT\s+INTO|UPDATE)\s+\W?sqlite_sequence\b", re.I)
_TITLE = re.compile(rb"[^('=]{1,80}")
_SELECTS = re.compile(rb"\b(?:SELECT|WITH)\b", re.I)
_NOT_CODE = re.compile(
    rb"""'(?:[^']|'')*+'|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]|--[^\n]*+|/\*(?s:.*?)\*/"""
)
_QUOTED = re.compile(rb"""'(?:[^']|'')*+'|"[^"]*+"|`[^`]*+`|\[[^\]]*+\]""")
_MISSING = re.compile(r"no such (table|function|collation sequence): (.+)")

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
_COUNTER_ACTIONS = (sqlite3.SQLITE_DELETE, sqlite3.SQLITE_UPDATE)
_DENIED_FUNCTIONS = {
    *("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"),
    *("randomblob", "zeroblob", "printf", "format"),
}
_VDBE_STEPS = 250_000_000
"""SQLite's own limit; a statement with many rows needs a few steps for each value."""

_DOES = {
    sqlite3.SQLITE_ALTER_TABLE: "alters a table",
    sqlite3.SQLITE_ATTACH: "opens another file",
    sqlite3.SQLITE_DELETE: "deletes rows of {}",
    sqlite3.SQLITE_DETACH: "closes a file",
    sqlite3.SQLITE_FUNCTION: "calls {1}()",
    sqlite3.SQLITE_SAVEPOINT: "sets a savepoint",
    sqlite3.SQLITE_SELECT: "runs a query",
    sqlite3.SQLITE_UPDATE: "changes rows of {}",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "creates a temporary table",
}


CREATE = "Use a file that sqlite3 FILE .dump or turso db shell NAME .dump has written"
"""The remedy for a file that is no dump."""


@dataclass
class Execution:
    """The statements of one dump, executed in a new file.

    Attributes:
        dump: the name of the dump in messages.
        executed: number of statements so far.
        open: the line of a BEGIN that no COMMIT has followed yet.
        ended: the dump contained a COMMIT.
        virtual: names of virtual tables, which are skipped.
        indexes: names of indexes that were skipped, and why.
    """

    connection: sqlite3.Connection
    dump: str
    executed: int = 0
    open: int | None = None
    ended: bool = False
    virtual: set[str] = field(default_factory=set)
    indexes: dict[str, str] = field(default_factory=dict)
    _later: list[Statement] = field(default_factory=list)
    _current: bytes = b""
    _denied: str = ""

    def confine(self, *, pages: int) -> None:
        """Allow statements only to create and fill tables, within a limited size."""
        connection = self.connection
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, STATEMENT_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VDBE_OP, _VDBE_STEPS)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        # The contract of the target decides about rows, also where a CHECK was added later.
        connection.execute("PRAGMA ignore_check_constraints = ON")
        # Lets a CHECK name a function of the application; the authorizer decides what is called.
        connection.execute("PRAGMA trusted_schema = ON")
        connection.execute(f"PRAGMA max_page_count = {pages}")
        # SQLite's shell writes unistr() since 3.50; older libraries lack it.
        connection.create_function("unistr", 1, _unistr, deterministic=True)
        connection.set_authorizer(self._authorize)

    def process(self, statement: Statement) -> None:
        """Execute a statement, or skip one that holds no rows.

        Raises:
            SourceError: it does anything else, or cannot be executed.
        """
        sql = _SHELL.sub(b"", statement.sql, count=1)
        if _ROLLS_BACK.match(sql):
            raise SourceError(
                f"The dump {self.dump} ends with ROLLBACK in line {statement.line}: the shell that"
                " wrote it found an error in the database, so rows may be missing",
                remedy="See the comment next to it, and create the dump again",
            )
        if _BEGINS.fullmatch(sql):
            self.open = statement.line
        elif _COMMITS.fullmatch(sql):
            self._end(statement)
        elif found := _VIRTUAL.match(sql):
            self.virtual.add(_bare(found[1] or found[2]))
        elif _WITHOUT_ROWS.match(sql) or self._is_virtual(sql):
            pass
        elif _TRIGGER.match(sql):
            self._later.append(statement)
        else:
            self._execute(Statement(sql, statement.line, statement.end))
        self.executed += 1

    def finish(self) -> None:
        """Execute what had to wait for the tables and their rows."""
        waiting, self._later = self._later, []
        for statement in waiting:
            self._execute(statement, last=True)

    def _end(self, statement: Statement) -> None:
        if self.open is None and not self.ended:
            raise SourceError(
                f"The dump {self.dump} is incomplete: line {statement.line} ends a transaction"
                " that the dump does not begin, so its beginning is missing",
                remedy="Create the dump again",
            )
        self.open, self.ended = None, True

    def _is_virtual(self, sql: bytes) -> bool:
        found = _INTO.match(sql) if self.virtual else None
        return found is not None and _bare(found[1]) in self.virtual

    def _execute(self, statement: Statement, *, last: bool = False) -> None:
        self._current, self._denied = statement.sql, ""
        try:
            self.connection.execute(_text(statement.sql))
        except UnicodeDecodeError:
            raise self._impossible(statement, "it is not UTF-8") from None
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            if not self._can_wait(statement, str(error), last=last):
                raise self._refused(statement, str(error) or "no memory") from error

    def _can_wait(self, statement: Statement, why: str, *, last: bool) -> bool:
        """Whether a statement is repeated with what it lacked, later, or not at all."""
        missing = _MISSING.fullmatch(why)
        if missing is None or self._denied:
            return False
        kind, name = missing[1], missing[2]
        if _COUNTERS.match(statement.sql):
            # Without a table with AUTOINCREMENT, counters belong to nothing.
            if not last:
                self._later.append(statement)
            return True
        if kind == "table":
            if _INDEX.match(statement.sql) and not last:
                self._later.append(statement)
                return True
            return False
        if found := _INDEX.match(statement.sql):
            self.indexes[_bare(found[1])] = f"{kind} {name}"
            return True
        if kind == "function" and _INTO.match(statement.sql):
            return False
        if kind == "function":
            self.connection.create_function(name, -1, _unknown, deterministic=True)
        else:
            self.connection.create_collation(name, compare_exactly)
        self._execute(statement, last=last)
        return True

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        _database: str | None,
        trigger: str | None,
    ) -> int:
        allowed = (
            action in _ALLOWED
            or (action == sqlite3.SQLITE_UPDATE and first in _SCHEMA)
            or (action in _COUNTER_ACTIONS and first == "sqlite_sequence")
            or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() not in _DENIED_FUNCTIONS)
            or (action == sqlite3.SQLITE_SELECT and self._has_only_values())
        )
        if allowed and trigger is None:
            return sqlite3.SQLITE_OK
        does = _DOES.get(action, "does something else")
        if action == sqlite3.SQLITE_DELETE and first in _SCHEMA:
            does = "drops a part of the schema"
        self._denied = self._denied or (
            does.format(first, second) if trigger is None else f"runs trigger {trigger}"
        )
        return sqlite3.SQLITE_DENY

    def _has_only_values(self) -> bool:
        """SQLite treats several rows after VALUES as a query."""
        sql = self._current
        return bool(_INTO.match(sql)) and not _SELECTS.search(_NOT_CODE.sub(b"", sql))

    def _refused(self, statement: Statement, why: str) -> SourceError:
        does = self._denied
        if lacking := _MISSING.fullmatch(why):
            does = f"calls {lacking[2]}()" if lacking[1] == "function" else ""
        if does or "prohibited" in why or "not authorized" in why:
            does = does or f"does something else ({why})"
            return SourceError(
                f"{self._place(statement)} {does}; a dump may only create and fill tables",
                remedy="If you trust its author, execute it with sqlite3 and use the database as"
                f" the source: sqlite3 NEW.db < {self.dump}",
            )
        if "full" in why:
            return SourceError(
                f"There is no space for the copy of the dump {self.dump} (line {statement.line})",
                remedy="Free space in PIPELINE_HOME and run again",
            )
        return self._impossible(statement, why)

    def _impossible(self, statement: Statement, why: str) -> SourceError:
        if command := _COMMAND.match(statement.sql):
            return SourceError(
                f"Line {statement.line} of the dump {self.dump} has .{command[1].decode()}, a"
                " command of the sqlite3 shell, not SQL",
                remedy="Write the dump with sqlite3 FILE .dump alone, or remove that line",
            )
        if not self.executed and ("syntax error" in why or "token" in why or "UTF-8" in why):
            return SourceError(
                f"{self.dump} is not a dump: line {statement.line} is not SQL ({why})",
                remedy=CREATE,
            )
        return SourceError(
            f"{self._place(statement)} cannot be executed ({why})",
            remedy="Create the dump again, or correct that statement",
        )

    def _place(self, statement: Statement) -> str:
        return f"Line {statement.line} of the dump {self.dump} ({_title(statement.sql)})"


def _title(sql: bytes) -> str:
    """The beginning of a statement, without values of rows."""
    found = _TITLE.match(re.sub(rb"(?is)\bVALUES\b.*", b"", sql[:400]).strip(b"; \t\r\n"))
    return " ".join(found.group().decode(errors="replace").split()) if found else "..."


def _bare(name: bytes) -> str:
    text = name.decode(errors="replace")
    return (text[1:-1] if text[0] in "\"'`[" else text).lower()


def _unknown(*_: object) -> None:
    raise ValueError("a function of the application would be needed")


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


_ESCAPE = re.compile(
    r"\\(?:\\|u([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|U([0-9A-Fa-f]{8})|([0-9A-Fa-f]{4}))"
)


def _unistr(text: str | None) -> str | None:
    """SQLite's function unistr(), for libraries that lack it."""

    def letter(found: re.Match[str]) -> str:
        digits = next((group for group in found.groups() if group), None)
        return "\\" if digits is None else chr(int(digits, 16))

    return None if text is None else _ESCAPE.sub(letter, text)
