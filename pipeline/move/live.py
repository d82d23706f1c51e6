"""The live source, seen as it was at one moment, without a copy of all of it.

One connection pins a view of the live file and carries rows from it into two private files, within
SQLite: ``versions`` get the key, date of change and sizes of every row, ``changes`` the whole of
those rows that are asked for. Both are read like any snapshot. The pinned view is a read
transaction: in WAL mode it blocks nobody, in another mode nobody can commit while it lasts.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.move import tracking
from pipeline.move.contract import quoted
from pipeline.move.extract import Source
from pipeline.move.landing import Landing, SourceColumn
from pipeline.move.snapshot import (
    BUSY_SECONDS,
    Snapshot,
    demand_table,
    look_at,
    seen_of,
    unreadable,
)
from pipeline.move.tracking import Position
from pipeline.move.types import affinity

_LIVE, _VERSIONS = "live", "versions"


class LiveSource(Source):
    """Rows that were asked for, readable like a snapshot; parents are looked up in the live file.

    Attributes:
        snapshot: the private file of whole rows.
        versions: the private file of keys, dates and sizes.
    """

    everything = f"{_LIVE}."

    def __init__(self, changes: Snapshot, versions: Source, connection: sqlite3.Connection) -> None:
        """Use ``pinned``."""
        super().__init__(changes)
        self.versions = versions
        self._connection = connection

    @contextmanager
    def sqlite(self) -> Iterator[sqlite3.Connection]:
        """The pinned connection; unqualified names are those of the rows that were asked for."""
        before = self._connection.text_factory
        self._connection.text_factory = bytes
        try:
            yield self._connection
        finally:
            self._connection.text_factory = before

    @contextmanager
    def writable(self) -> Iterator[sqlite3.Connection]:
        """The pinned connection too: another one could not write while it holds its view."""
        with self.sqlite() as connection:
            yield connection

    def columns(self, table: str) -> tuple[SourceColumn, ...]:
        """The columns of a table, as the live file declares them."""
        return self._columns(table, f"{_LIVE}.")

    def position(self, table: sa.Table) -> Position | None:
        """Where the log of changes ends; None where the table is not tracked."""
        if table.name not in self._positions:
            found = tracking.position(self._connection, table, schema=_LIVE)
            self._positions[table.name] = found
        return self._positions[table.name]

    def continues(self, after: Position) -> bool:
        """Whether the log still holds the entry that was read last."""
        return tracking.continues(self._connection, after, schema=_LIVE)

    def changed_keys(self, table: str, after: Position) -> list[Any]:
        """Keys of rows that were written or deleted since, each once."""
        with self.sqlite() as connection:
            connection.text_factory = str
            return tracking.changed_keys(connection, table, after, schema=_LIVE)

    def take_versions(self, landing: Landing) -> Source:
        """Copy key, date of change and sizes of every row; the file they are in."""
        with self._readable():
            key = quoted(landing.key.name)
            outputs = [
                f"CASE WHEN typeof({c}) = 'blob' THEN length({c}) WHEN {c} IS NOT NULL THEN {c} END"
                if size
                else c
                for column in landing.of_versions.columns
                for c, size in [(quoted(column.name), column.name in landing.of_versions.sized)]
            ]
            self._make(landing, _VERSIONS, [column.name for column in landing.of_versions.columns])
            self._fill(landing, _VERSIONS, outputs, f"ORDER BY {key}")
        return self.versions

    def take_rows(self, landing: Landing, *, keys: Sequence[Any], handles: Collection[Any]) -> None:
        """Copy whole rows; those that the source does not have are left out."""
        with self._readable():
            names = [column.name for column in self.columns(landing.name)]
            self._make(landing, "main", names)
            key, handle = quoted(landing.key.name), self.handle_column(landing)
            for column, wanted in ((key, list(keys)), (handle, list(handles))):
                if wanted:
                    self._fill(
                        landing,
                        "main",
                        [quoted(name) for name in names],
                        f"WHERE {column} IN (SELECT value FROM json_each(?))"
                        f" AND {handle} NOT IN (SELECT {self.handle_column(landing)}"
                        f" FROM main.{quoted(landing.name)})",
                        (json.dumps(wanted),),
                    )

    def keys(self, landing: Landing) -> list[Any]:
        """Keys of the rows that were asked for, as far as they are of a key's type."""
        key = quoted(landing.key.name)
        storage = landing.casts[landing.key.name].storage[0]
        return self._handles(
            f"SELECT {key} FROM main.{quoted(landing.name)} WHERE typeof({key}) = ?", (storage,)
        )

    def lacking(self, landing: Landing, keys: Sequence[Any]) -> list[Any]:
        """Those of some keys that the live source does not have."""
        key = quoted(landing.key.name)
        found = self._connection.execute(
            f"SELECT value FROM json_each(?) WHERE NOT EXISTS"
            f" (SELECT 1 FROM {_LIVE}.{quoted(landing.name)} AS r WHERE r.{key} = value)",
            (json.dumps(list(keys)),),
        )
        return [value for (value,) in found]

    def handle_column(self, landing: Landing) -> str:
        """SQL for what names a row for certain, in the live file and in the private ones."""
        if landing.name not in self._handle_columns:
            self._handle_columns[landing.name] = self._find_handle_column(landing, _LIVE)
        return self._handle_columns[landing.name]

    def _make(self, landing: Landing, schema: str, names: Sequence[str]) -> None:
        """An empty private table, in which a row is named as in the live file."""
        handle, key = self.handle_column(landing), landing.key.name
        declared = {column.name: column.declared for column in self.columns(landing.name)}
        types = {name: _type_word(declared[name]) for name in names}
        options = ""
        if handle == quoted(key):
            types[key] = "INTEGER PRIMARY KEY"
        elif handle.startswith("("):
            types[key] += " PRIMARY KEY"
            options = " WITHOUT ROWID"
        if schema == _VERSIONS:
            # A column that only tells a size must keep it as it is.
            types |= dict.fromkeys(landing.of_versions.sized, "")
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
        table = f"{schema}.{quoted(landing.name)}"
        self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        self._connection.execute(f"CREATE TABLE {table} ({columns}){options}")
        if handle != quoted(key) and not options:
            index = quoted(f"pipeline key of {landing.name}")
            self._connection.execute(
                f"CREATE INDEX {schema}.{index} ON {quoted(landing.name)} ({quoted(key)})"
            )

    def _fill(
        self,
        landing: Landing,
        schema: str,
        outputs: Sequence[str],
        rest: str,
        parameters: tuple[Any, ...] = (),
    ) -> None:
        handle = self.handle_column(landing)
        names = (
            [quoted(column.name) for column in landing.of_versions.columns]
            if schema == _VERSIONS
            else list(outputs)
        )
        if handle != quoted(landing.key.name) and not handle.startswith("("):
            names, outputs = [handle, *names], [handle, *outputs]
        self._connection.execute(
            f"INSERT INTO {schema}.{quoted(landing.name)} ({', '.join(names)})"
            f" SELECT {', '.join(outputs)} FROM {_LIVE}.{quoted(landing.name)} {rest}",
            parameters,
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise unreadable(self.path, error) from error


@contextmanager
def pinned(
    source: Path, folder: Path, *, tables: Sequence[sa.Table], busy_seconds: float = BUSY_SECONDS
) -> Iterator[LiveSource]:
    """Hold a view of the live file.

    Args:
        source: the live SQLite file; it is opened read-only.
        folder: where the private files are made.
        tables: the tables that will be read.
        busy_seconds: how long a locked source is waited for.

    Raises:
        SourceError: the file is missing, empty, encrypted, no database, truncated, locked, or
            lacks one of the tables.
    """
    look_at(source)
    seen = seen_of(source)
    folder.mkdir(parents=True, exist_ok=True)
    changes, versions = folder / "changes.db", folder / "versions.db"
    for path in (changes, versions):
        path.unlink(missing_ok=True)
    with closing(
        sqlite3.connect(
            changes.absolute().as_uri(),
            uri=True,
            timeout=busy_seconds,
            isolation_level=None,
            # Threads take turns; none asks while another one does.
            check_same_thread=False,
        )
    ) as connection:
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            live = f"{source.absolute().as_uri()}?mode=ro"
            for uri, name in ((versions.absolute().as_uri(), _VERSIONS), (live, _LIVE)):
                connection.execute(f"ATTACH ? AS {name}", (uri,))
            for name in ("main", _VERSIONS):
                connection.execute(f"PRAGMA {name}.journal_mode = OFF")
                connection.execute(f"PRAGMA {name}.synchronous = OFF")
            # A statement that has not ended keeps its view of the file, across transactions that
            # write the private ones.
            pin = connection.execute(f"SELECT 1 FROM {_LIVE}.sqlite_master UNION ALL SELECT 2")
            pin.fetchone()
            for table in tables:
                demand_table(connection, table, source, schema=_LIVE)
        except sqlite3.DatabaseError as error:
            raise unreadable(source, error) from error
        opened = Source(Snapshot(versions, source, 0, 0.0, seen))
        try:
            yield LiveSource(Snapshot(changes, source, 0, 0.0, seen), opened, connection)
        finally:
            pin.close()


def _type_word(declared: str) -> str:
    """A declared type as it may stand in DDL; one with odd letters by its affinity."""
    plain = declared.replace("_", "").replace(" ", "")
    plain = plain.replace("(", "").replace(")", "").replace(",", "").replace(".", "")
    return declared if plain.isalnum() and plain.isascii() else affinity(declared)
