"""Plain tables: the rows of a table in columns of the same types, without anything else.

A plain table has no collations, constraints, computed columns or indexes, so texts in it compare
exactly and nothing runs when it is read. Its rows keep their row ids and storage classes. It keeps
its triggers, which tell whether a table is frozen.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.sqlite.catalog import row_ids
from pipeline.sqlite.structure import tokens

_ENCODINGS = {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_HIDDEN = 1
"""The value of ``hidden`` in ``table_xinfo`` for columns without data."""


def utf16(connection: sqlite3.Connection) -> str | None:
    """The Python name of the encoding of a file's texts; None for UTF-8."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    return _ENCODINGS.get(encoding.decode() if isinstance(encoding, bytes) else encoding)


def rebuild(copy: sqlite3.Connection, table: str) -> None:
    """Replace a table of a private file by a plain one."""
    shape, draft = _shape(copy, table), f"pipeline plain {table}"
    copy.execute(shape.ddl(draft))
    names = ", ".join(shape.names)
    copy.execute(
        f"INSERT INTO {quoted(draft)} ({names}) SELECT {names} FROM {quoted(table)} NOT INDEXED"
    )
    triggers = _triggers(copy, table)
    copy.execute(f"DROP TABLE {quoted(table)}")
    # Otherwise views and triggers would be parsed, which may use what only the application has.
    copy.execute("PRAGMA legacy_alter_table = ON")
    copy.execute(f"ALTER TABLE {quoted(draft)} RENAME TO {quoted(table)}")
    shape.keep_counter(copy)
    for sql in triggers:
        copy.execute(sql)


def transcode(
    raw: sqlite3.Connection, into: sqlite3.Connection, table: str, *, encoding: str
) -> None:
    """Copy a table whose texts are in UTF-16 to a file whose texts are in UTF-8.

    A text that is no valid UTF-16 becomes one that is no valid UTF-8.
    """
    shape = _shape(raw, table)
    into.execute(shape.ddl(table))
    outputs = ", ".join(
        f"typeof({name}), CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END"
        for name in shape.names
    )
    marks = ", ".join("CASE WHEN ? THEN CAST(? AS TEXT) ELSE ? END" for _ in shape.names)

    def values() -> Iterator[list[Any]]:
        for row in raw.execute(f"SELECT {outputs} FROM {quoted(table)} NOT INDEXED"):
            given: list[Any] = []
            for storage, value in zip(row[::2], row[1::2], strict=True):
                text = storage == "text"
                recoded = _recoded(value, encoding) if text else None
                given += (text, recoded, None if text else value)
            yield given

    into.executemany(
        f"INSERT INTO {quoted(table)} ({', '.join(shape.names)}) VALUES ({marks})", values()
    )
    shape.keep_counter(into)
    for sql in _triggers(raw, table):
        into.execute(sql)


def _triggers(connection: sqlite3.Connection, table: str) -> list[str]:
    found = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE"
    return [sql for (sql,) in connection.execute(found, (table,))]


def _recoded(text: bytes, encoding: str) -> bytes:
    """A text in UTF-8; half of a character at the end is cut off, as SQLite does."""
    return text[: len(text) & ~1].decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class _Shape:
    """A table as it is declared.

    Attributes:
        columns: names and types.
        primary: names of the key's columns, if the key stores the rows.
        row_id: the name of the row id, if it is no column.
        counter: the last id of an AUTOINCREMENT table.
        truths: defaults of columns that say that they hold truth values.
    """

    table: str
    columns: tuple[tuple[str, str], ...]
    primary: tuple[str, ...]
    row_id: str | None
    without_rowid: bool
    strict: bool
    counts: bool
    counter: int | None
    truths: dict[str, str]

    @property
    def names(self) -> list[str]:
        """What is copied, quoted."""
        return [
            *([self.row_id] if self.row_id else []),
            *(quoted(name) for name, _ in self.columns),
        ]

    def ddl(self, name: str) -> str:
        """The statement that creates the plain table."""
        parts = [self._column(*column) for column in self.columns]
        if self.without_rowid:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, self.primary))})")
        options = ["WITHOUT ROWID"] * self.without_rowid + ["STRICT"] * self.strict
        return f"CREATE TABLE {quoted(name)} ({', '.join(parts)}) {', '.join(options)}"

    def _column(self, name: str, declared: str) -> str:
        if (name,) == self.primary and not self.without_rowid:
            kind = f"INTEGER PRIMARY KEY{' AUTOINCREMENT' if self.counts else ''}"
        else:
            kind = declared if self.strict or not declared else quoted(declared)
        default = f" DEFAULT {self.truths[name]}" if name in self.truths else ""
        return f"{quoted(name)} {kind}{default}"

    def keep_counter(self, connection: sqlite3.Connection) -> None:
        """Set the counter of an AUTOINCREMENT table to that of the original."""
        if self.counts and self.primary:
            connection.execute(
                "DELETE FROM sqlite_sequence WHERE name = ? COLLATE NOCASE", (self.table,)
            )
            if self.counter is not None:
                given = (self.table, self.counter)
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", given)


def _shape(connection: sqlite3.Connection, table: str) -> _Shape:
    info = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    columns = tuple((row[1], row[2]) for row in info if row[6] != _HIDDEN)
    truths = {row[1]: row[4] for row in info if str(row[4]).lower() in ("true", "false")}
    keys = sorted((row[5], row[1]) for row in info if row[5])
    listed = connection.execute(f"PRAGMA main.table_list({quoted(table)})").fetchall()
    without_rowid, strict = any(row[4] for row in listed), any(row[5] for row in listed)
    is_rowid = row_ids.named(connection, table) is not None
    taken = {folded(name) for name, _ in columns}
    free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
    (sql,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
    ).fetchone()
    counts = tokens.has_keyword(sql, "AUTOINCREMENT")
    return _Shape(
        table,
        columns,
        tuple(name for _, name in keys) if without_rowid or is_rowid else (),
        None if without_rowid or is_rowid or not free else free[0],
        without_rowid,
        strict,
        counts,
        _counter(connection, table) if counts else None,
        truths,
    )


def _counter(connection: sqlite3.Connection, table: str) -> int | None:
    has = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"
    if connection.execute(has).fetchone() is None:
        return None
    sql = "SELECT seq FROM sqlite_sequence WHERE name = ? COLLATE NOCASE"
    found = connection.execute(sql, (table,)).fetchone()
    return found[0] if found else None
