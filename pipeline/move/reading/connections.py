"""How a view of the source opens SQLite: a file that nobody writes, or a pinned connection."""

import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations, plain_tables
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import Snapshot, fingerprint_of, take_snapshot


class Connections(Protocol):
    """Connections of Python's ``sqlite3`` for few rows; TEXT is returned as bytes.

    Attributes:
        schema: the name within a connection of the file with all rows of the source, which provides
            columns, counts and the change log; rows are read from ``main``.
    """

    schema: str

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection for queries."""

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that changes the private copy, without triggers and CHECKs."""


class FileConnections:
    """A connection of its own for each reader of a private copy."""

    schema = "main"

    def __init__(self, snapshot: Snapshot) -> None:
        """Open nothing yet."""
        self._snapshot = snapshot
        self._unknown_collations: Set[str] | None = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection to the copy."""
        try:
            with closing(opening.connect(self._snapshot.path, "immutable")) as connection:
                # The copy names none that it did not name before.
                self._unknown_collations = collations.stand_in(
                    connection, names=self._unknown_collations
                )
                connection.text_factory = bytes
                yield connection
        except opening.UNREADABLE as error:
            raise unreadable(self._snapshot.source, error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that first drops the triggers of the copy."""
        try:
            with closing(opening.connect(self._snapshot.path, "rw")) as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA ignore_check_constraints = ON")
                triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                for (name,) in connection.execute(triggers).fetchall():
                    connection.execute(f"DROP TRIGGER {quoted(name)}")
                connection.text_factory = bytes
                yield connection
                connection.commit()
        except opening.UNREADABLE as error:
            raise unreadable(self._snapshot.source, error) from error


class PinnedConnection:
    """One connection for all readers; another one could not write while it holds its view."""

    def __init__(self, snapshot: Snapshot, connection: sqlite3.Connection, schema: str) -> None:
        """Take a connection to which the live file is attached as ``schema``."""
        self._snapshot, self._connection, self.schema = snapshot, connection, schema

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection; unqualified table names refer to the requested rows."""
        before = self._connection.text_factory
        self._connection.text_factory = bytes
        try:
            yield self._connection
        except opening.UNREADABLE as error:
            path, copy = self._snapshot.source, self._snapshot.path
            raise unreadable(path, error, copy=copy) from error
        finally:
            self._connection.text_factory = before

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """The same connection; the private files have no triggers."""
        return self.reading()


def attachable(
    source: Path, folder: Path, tables: Sequence[sa.Table], busy_seconds: float
) -> Snapshot:
    """The live file, or a copy of it if it cannot be attached to private files."""
    fingerprint = fingerprint_of(source)
    try:
        with closing(opening.connect(source, "ro", timeout=busy_seconds)) as live:
            if plain_tables.utf16(live) is None and not any(
                collations.cannot_be_searched(live, table) for table in tables
            ):
                declared = {t.name: collations.of_columns(live, t.name) for t in tables}
                return Snapshot(source, source, 0, 0.0, fingerprint, declared)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error
    return take_snapshot(source, folder / "live.db", tables=tables, busy_seconds=busy_seconds)
