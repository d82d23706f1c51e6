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
    primary = [row for row in info if row[5]]
    is_key = [folded(as_text(row[1])) for row in primary] == [folded(key)]
    if is_key and as_text(primary[0][2]).upper() == "INTEGER":
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
