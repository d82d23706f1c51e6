"""Write rows of a proven copy into the source, as the application would have written them.

Each row is deleted, updated in its changed columns, or inserted, so that the source's triggers see
what happened. A file reads the rows from the attached copy. A server has no access to the copy, so
it receives them one by one.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.quoting import quoted
from pipeline.cutover.source.changed_rows import Replayed, stored_columns
from pipeline.mapping.matching import folded
from pipeline.sqlite.catalog import row_ids

_TAKEN = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}
_ROWID = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True)
class SourceTable:
    """A table of the source: its name, its key, and the columns of a whole row, all quoted."""

    table: str
    key: str
    columns: tuple[str, ...]


class Writer(Protocol):
    """Writes rows of one source."""

    @property
    def batch_rows(self) -> int:
        """How many rows it takes at once."""

    def delete(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Delete rows."""

    def update(self, place: SourceTable, columns: Sequence[str], keys: Sequence[object]) -> None:
        """Update some columns of rows."""

    def insert(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Insert rows."""


@dataclass(frozen=True)
class FileWriter:
    """Writes to a file that has the copy attached as ``proven``."""

    connection: sqlite3.Connection
    batch_rows: int = 5_000

    def delete(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Delete rows."""
        self._run(f"DELETE FROM main.{place.table}", place, keys)

    def update(self, place: SourceTable, columns: Sequence[str], keys: Sequence[object]) -> None:
        """Update some columns of rows."""
        names, table, key = ", ".join(columns), place.table, place.key
        value = f"SELECT {names} FROM proven.{table} AS p WHERE p.{key} = main.{table}.{key}"
        value += f" AND p.{key} = main.{table}.{key} COLLATE BINARY"
        self._run(f"UPDATE main.{table} SET ({names}) = ({value})", place, keys)

    def insert(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Insert rows."""
        names = ", ".join(place.columns)
        sql = f"INSERT INTO main.{place.table} ({names}) SELECT {names} FROM proven.{place.table}"
        self._run(sql, place, keys)

    def _run(self, sql: str, place: SourceTable, keys: Sequence[object]) -> None:
        these = f"WHERE {place.key} COLLATE BINARY IN (SELECT value FROM json_each(?))"
        self.connection.execute(f"{sql} {these}", (json.dumps(list(keys)),))


@dataclass(frozen=True)
class ServerWriter:
    """Writes to a server, with rows that are read from the copy."""

    connection: sqlite3.Connection
    proven: sqlite3.Connection
    batch_rows: int = 1

    def delete(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Delete rows."""
        for key in keys:
            self.connection.execute(f"DELETE FROM {place.table} WHERE {_exact(place)}", (key,))

    def update(self, place: SourceTable, columns: Sequence[str], keys: Sequence[object]) -> None:
        """Update some columns of rows."""
        sets = ", ".join(f"{column} = ?" for column in columns)
        for key in keys:
            sql = f"UPDATE {place.table} SET {sets} WHERE {_exact(place)}"
            self.connection.execute(sql, (*self._row(place, columns, key), key))

    def insert(self, place: SourceTable, keys: Sequence[object]) -> None:
        """Insert rows."""
        names, marks = ", ".join(place.columns), ", ".join("?" * len(place.columns))
        for key in keys:
            sql = f"INSERT INTO {place.table} ({names}) VALUES ({marks})"
            self.connection.execute(sql, self._row(place, place.columns, key))

    def _row(self, place: SourceTable, columns: Sequence[str], key: object) -> tuple[object, ...]:
        sql = f"SELECT {', '.join(columns)} FROM {place.table} WHERE {_exact(place)}"
        row: tuple[object, ...] = self.proven.execute(sql, (key,)).fetchone()
        return row


def _exact(place: SourceTable) -> str:
    return f"{place.key} = ? COLLATE BINARY"


def write(connection: sqlite3.Connection, writer: Writer, done: Sequence[Replayed]) -> None:
    """Write all changed rows: deletions first, so that their unique values are free.

    Children are deleted before their parents and inserted after them.

    Raises:
        sqlite3.DatabaseError: a row or a trigger failed.
    """
    places = {found.mapping.name: _source_table(connection, found) for found in done}
    for found in reversed(done):
        for batch in _batches(found.deleted, writer.batch_rows):
            writer.delete(places[found.mapping.name], batch)
    for found in done:
        place = places[found.mapping.name]
        _update(writer, place, found)
        for batch in _batches(found.inserted, writer.batch_rows):
            writer.insert(place, batch)


def _update(writer: Writer, place: SourceTable, found: Replayed) -> None:
    """Update rows; rows wait for unique values that others still have.

    Rows that exchange such values wait for each other; they are deleted and inserted again.
    """
    waiting = []
    for columns, keys in _by_columns(found, place).items():
        for batch in _batches(keys, writer.batch_rows):
            if not _try_update(writer, place, columns, batch):
                waiting += [(columns, [key]) for key in batch]
    before = -1
    while waiting and len(waiting) != before:
        before = len(waiting)
        waiting = [each for each in waiting if not _try_update(writer, place, *each)]
    keys = [key for _, (key,) in waiting]
    for batch in _batches(keys, writer.batch_rows):
        writer.delete(place, batch)
    for batch in _batches(keys, writer.batch_rows):
        writer.insert(place, batch)


def _try_update(
    writer: Writer, place: SourceTable, columns: Sequence[str], keys: Sequence[object]
) -> bool:
    """Update rows unless a unique value is taken; returns whether they were updated."""
    try:
        writer.update(place, columns, keys)
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode not in _TAKEN:
            raise
        return False
    return True


def _by_columns(found: Replayed, place: SourceTable) -> dict[tuple[str, ...], list[object]]:
    """Keys of updated rows by their changed columns; computed ones change by themselves."""
    columns: dict[object, list[str]] = {}
    named = {folded(column): column for column in place.columns}
    for name in sorted(found.updated):
        column = named.get(folded(found.mapping.in_source(name)))
        for key in found.updated[name] if column else ():
            columns.setdefault(key, []).append(str(column))
    groups: dict[tuple[str, ...], list[object]] = {}
    for key, names in columns.items():
        groups.setdefault(tuple(names), []).append(key)
    return groups


def _source_table(connection: sqlite3.Connection, found: Replayed) -> SourceTable:
    name = found.mapping.name
    columns = stored_columns(connection, name)
    info = connection.execute(f"PRAGMA main.table_info({quoted(name)})").fetchall()
    listed = connection.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE",
        (name,),
    ).fetchone()
    free = [alias for alias in _ROWID if alias not in {folded(row[1]) for row in info}]
    if free and not listed[0] and row_ids.named(connection, name) is None:
        # A full-text index may refer to the rowid.
        columns = [free[0], *columns]
    return SourceTable(quoted(name), quoted(found.mapping.key.name), tuple(columns))


def _batches(keys: Sequence[object], rows: int) -> list[list[object]]:
    return [list(keys[start : start + rows]) for start in range(0, len(keys), rows)]
