"""What identifies a row of the source: its rowid, or the key of a table WITHOUT ROWID."""

import sqlite3

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.mapping.row_key import RowKey
from pipeline.sqlite.catalog.names import as_text

_ALIASES = ("rowid", "_rowid_", "oid")


def column(connection: sqlite3.Connection, table: sa.Table, *, schema: str = "main") -> str:
    """SQL for the row id of a table.

    Raises:
        SourceError: columns of the table hide its rowids.
    """
    name, key = quoted(table.name), RowKey.of(table).name
    info = connection.execute(f"PRAGMA {schema}.table_info({name})").fetchall()
    listed = connection.execute(f"PRAGMA {schema}.table_list({name})").fetchall()
    if any(as_text(row[2]) == "table" and row[4] for row in listed):
        # The key is the only identifier, and may have any storage class.
        return f"(typeof({quoted(key)}) || ':' || hex({quoted(key)}))"
    alias = named(connection, table.name, schema=schema)
    if alias is not None and folded(alias) == folded(key):
        return quoted(key)
    names = {folded(as_text(row[1])) for row in info}
    free = [alias for alias in _ALIASES if alias not in names]
    if not free:
        raise SourceError(
            f"{table.name} of the source has columns rowid, _rowid_ and oid, which hide its row"
            " ids",
            remedy="Rename one of these columns",
        )
    return free[0]


def named(connection: sqlite3.Connection, table: str, *, schema: str = "main") -> str | None:
    """The column that is the row id of a table, if there is one.

    SQLite keeps an index for every other primary key, so also for ``INTEGER PRIMARY KEY DESC``.
    """
    name = quoted(table)
    primary = [
        row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({name})") if row[5]
    ]
    indexes = connection.execute(f"PRAGMA {schema}.index_list({name})").fetchall()
    if not primary or any(as_text(row[3]) == "pk" for row in indexes):
        return None
    return as_text(primary[0])
