"""Checks that a table of the source can be read."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.messages import SOURCE_SETTING, message
from pipeline.core.quoting import quoted
from pipeline.mapping import row_key
from pipeline.mapping.matching import folded
from pipeline.mapping.row_key import KeyNotSupported, RowKey
from pipeline.sqlite import opening
from pipeline.sqlite.catalog.names import as_text

_COMPUTED = 2
"""The value of ``hidden`` in ``table_xinfo`` for a column that is computed on each read."""


def require_table(
    connection: sqlite3.Connection, table: sa.Table, source: Path, *, schema: str = "main"
) -> None:
    """Check that a table exists and that one column identifies its rows.

    Raises:
        SourceError: the table is missing, or is a view or a virtual table, which would run code.
        KeyNotSupported: the key is not one column, in the declaration or in the source.
    """
    kind = connection.execute(
        f"SELECT type, rootpage FROM {schema}.sqlite_master WHERE name = ? COLLATE NOCASE"
        " AND type IN ('table', 'view')",
        (table.name,),
    ).fetchone()
    if kind is None or kind[0] not in ("table", b"table"):
        raise SourceError(
            f"The source {source} has no table {table.name}",
            remedy=message("Check that ", SOURCE_SETTING, " names the application's database"),
        )
    if not kind[1]:
        raise SourceError(
            f"Table {table.name} of the source {source} is a virtual table, which is not supported",
            remedy=message("Check that ", SOURCE_SETTING, " names the application's database"),
        )
    key, name = RowKey.of(table), quoted(table.name)
    info = connection.execute(f"PRAGMA {schema}.table_info({name})").fetchall()
    primary = {row[5]: as_text(row[1]) for row in info if row[5]}
    if len(primary) > 1:
        columns = [primary[at] for at in sorted(primary)]
        raise KeyNotSupported(
            f"Table {table.name} of the source {source} has {row_key.description(columns)}",
            remedy=f"Make {key.name} its only primary key column; nothing was changed",
        )
    named = {folded(each) for each in primary.values()}
    if folded(key.name) not in named and primary and _has_no_rowid(connection, name, schema):
        raise KeyNotSupported(
            f"Table {table.name} of the source {source} has the primary key {primary[1]} and no"
            f" rowid, so values of {key.name} may not be unique",
            remedy=f"Make {key.name} its primary key; nothing was changed",
        )


def require_computable(
    connection: sqlite3.Connection,
    table: sa.Table,
    source: Path,
    *,
    schema: str = "main",
    path: Path | None = None,
    busy_seconds: float = 0.0,
) -> None:
    """Check that the computed columns of a table, if any, can be computed within limits.

    ``path`` is the file to read, ``source`` its name in messages.

    Raises:
        SourceError: the columns exceed a limit or cannot be computed.
    """
    info = connection.execute(f"PRAGMA {schema}.table_xinfo({quoted(table.name)})").fetchall()
    computed = [row[1] for row in info if row[6] == _COMPUTED]
    if computed:
        opening.require_computable(
            path or source, table.name, computed, source=source, busy_seconds=busy_seconds
        )


@dataclass(frozen=True)
class OtherTable:
    """A table of the source that no declaration names, so that it stays there.

    Attributes:
        virtual: a module of SQLite computes its rows, so they are not counted.
    """

    name: str
    virtual: bool
    rows: int | None = None

    @property
    def shown(self) -> str:
        """Its name, with what is known of its rows."""
        if self.virtual:
            return f"{self.name} (virtual)"
        if self.rows is None:
            return self.name
        return f"{self.name} ({self.rows:,} row{'' if self.rows == 1 else 's'})"


def others(
    connection: sqlite3.Connection,
    tables: Iterable[sa.Table],
    *,
    stays: Iterable[str] = (),
    schema: str = "main",
    count: bool = False,
) -> list[OtherTable]:
    """Tables of the source that are not declared, without those of SQLite and of this project.

    Args:
        connection: returns texts as strings or bytes.
        tables: the declared tables.
        stays: tables that stay in the source on purpose.
        count: count their rows.
    """
    known = {folded(table.name) for table in tables} | {folded(name) for name in stays}
    found = []
    for row in connection.execute(f"PRAGMA {schema}.table_list").fetchall():
        of_schema, name, kind = (as_text(each) for each in row[:3])
        ours = name.startswith(("sqlite_", "pipeline_"))
        # The shadow tables of a virtual table are part of it.
        if of_schema != schema or kind not in ("table", "virtual") or ours or folded(name) in known:
            continue
        rows = None
        if count and kind == "table":
            sql = f"SELECT count(*) FROM {schema}.{quoted(name)}"
            rows = connection.execute(sql).fetchone()[0]
        found.append(OtherTable(name, kind == "virtual", rows))
    owners = {f"{each.name}_" for each in found if each.virtual}
    owners |= {f"{name}_" for name in stays}
    return sorted(
        (each for each in found if not each.name.startswith(tuple(owners))),
        key=lambda each: each.name,
    )


def unique_columns(connection: sqlite3.Connection, table: str, *, schema: str = "main") -> set[str]:
    """Columns of a table that a unique constraint or index covers alone."""
    found = set()
    for _, index, unique, _, partial in connection.execute(
        f"PRAGMA {schema}.index_list({quoted(table)})"
    ).fetchall():
        columns = [
            (column, key)
            for _, _, column, _, _, key in connection.execute(
                f"PRAGMA {schema}.index_xinfo({quoted(as_text(index))})"
            ).fetchall()
        ]
        named = [column for column, key in columns if key]
        if unique and not partial and len(named) == 1 and named[0] is not None:
            found.add(as_text(named[0]))
    return found


def _has_no_rowid(connection: sqlite3.Connection, name: str, schema: str) -> bool:
    found = connection.execute(f"PRAGMA {schema}.table_list({name})").fetchall()
    return any(as_text(row[2]) == "table" and row[4] for row in found)
