"""A private copy of the source in which every table has row ids.

Rows are read by ranges of row ids, so neither a key nor a collation of the source matters.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_manager
import adbc_driver_sqlite
import adbc_driver_sqlite.dbapi as adbc_sqlite

from pipeline.copy.source.pool import Pool
from pipeline.core.quoting import quoted
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.structure.model import Schema, Table

ROW_IDS = ("rowid", "_rowid_", "oid")
"""Names of the row id in SQLite, unless a column has that name."""
ROW_ID = "row id of the pipeline"
"""The name of the row id in a stand-in."""


def stand_in_of(table: str) -> str:
    """The name of the copy's table with the rows of a table that has no row ids."""
    return f"pipeline rows of {table}"


@dataclass(frozen=True)
class PreparedSource:
    """A private copy that is never written again.

    Attributes:
        path: the copy.
        source: the name of the source in messages.
        schema: what the source declares, and virtual tables with rows as ordinary tables.
        stand_ins: the copy's table with the rows of a table that has no row ids, by table.
        fingerprint: the ``fingerprint_of`` the live file before it was copied.
        unread: virtual tables whose rows cannot be read, with the reason.
    """

    path: Path
    source: str
    schema: Schema
    stand_ins: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    unread: dict[str, str] = field(default_factory=dict)
    _readers: "Pool[sqlite3.Connection]" = field(default_factory=Pool, repr=False, compare=False)
    _arrow_readers: "Pool[Any]" = field(default_factory=Pool, repr=False, compare=False)

    def rows_of(self, table: Table) -> str:
        """The table of the copy with the rows of a table, quoted."""
        return quoted(self.stand_ins.get(table.name, table.name))

    def row_id(self, table: Table) -> str:
        """SQL for the row id in ``rows_of``, an integer."""
        if table.name in self.stand_ins:
            return quoted(ROW_ID)
        if table.is_row_id:
            return quoted(table.primary_key[0])
        taken = {column.name.lower() for column in table.columns}
        return next(name for name in ROW_IDS if name not in taken)

    @contextmanager
    def sqlite(self) -> Iterator[sqlite3.Connection]:
        """A connection of Python's ``sqlite3``; it returns texts as bytes.

        Raises:
            SourceError: the copy cannot be read.
        """
        try:
            with self._readers.borrowed(self._connect) as connection:
                connection.text_factory = bytes
                yield connection
        except opening.UNREADABLE as error:
            raise unreadable(Path(self.source), error) from error

    @contextmanager
    def arrow(self, *, batch_rows: int) -> Iterator[Any]:
        """A cursor of the Arrow reader, which fixes types by the first row of a query.

        Raises:
            SourceError: the copy cannot be read, or a value does not fit the type of its column.
        """
        try:
            with (
                self._arrow_readers.borrowed(self._connect_arrow) as connection,
                connection.cursor() as cursor,
            ):
                cursor.adbc_statement.set_options(
                    **{adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value: str(batch_rows)}
                )
                yield cursor
        except adbc_driver_manager.Error as error:
            raise unreadable(Path(self.source), error) from error

    def close(self) -> None:
        """Close all connections; the copy can be read no more."""
        self._readers.close()
        self._arrow_readers.close()

    def _connect(self) -> sqlite3.Connection:
        connection = opening.connect(self.path, "immutable", check_same_thread=False)
        try:
            collations.stand_in(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_arrow(self) -> Any:
        connection = adbc_sqlite.connect(f"{self.path.absolute().as_uri()}?immutable=1")
        try:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA trusted_schema = OFF")
                cursor.execute("PRAGMA cell_size_check = ON")
        except BaseException:
            connection.close()
            raise
        return connection
