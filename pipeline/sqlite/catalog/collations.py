"""Collations that the schema of a file names.

SQLite compares and orders a text by the collation of its column; PostgreSQL compares exactly. A
collation that an application defines is unknown here, so an index in its order can be scanned, but
not searched.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Set

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.mapping.row_key import RowKey
from pipeline.sqlite.structure import definitions, tokens

BINARY = "BINARY"
BUILT_IN = frozenset({BINARY, "NOCASE", "RTRIM"})
"""Collations of every SQLite; their names have no case."""


def of_columns(
    connection: sqlite3.Connection, table: str, *, schema: str = "main"
) -> dict[str, str]:
    """The collations of a table's columns other than BINARY, by folded column name."""
    sql = (
        f"SELECT sql FROM {schema}.sqlite_master WHERE type = 'table' AND rootpage > 0"
        " AND name = ? COLLATE NOCASE"
    )
    return {
        folded(column.name): column.collation
        for text in _texts(connection, sql, (table,))
        for column in definitions.table(text).columns
        if column.collation != BINARY
    }


def named_by(connection: sqlite3.Connection, table: str, *, schema: str = "main") -> set[str]:
    """All collations that a table and its indexes name, except BINARY, in upper case."""
    sql = (
        f"SELECT sql FROM {schema}.sqlite_master WHERE tbl_name = ? COLLATE NOCASE"
        " AND type IN ('table', 'index')"
    )
    return _named(_texts(connection, sql, (table,))) - {BINARY}


def unknown(connection: sqlite3.Connection, *, schema: str = "main") -> set[str]:
    """Collations that only the application has."""
    return _named(_texts(connection, f"SELECT sql FROM {schema}.sqlite_master")) - BUILT_IN


def cannot_be_searched(
    connection: sqlite3.Connection, table: sa.Table, *, schema: str = "main"
) -> bool:
    """Whether rows of a table are stored, or its keys compared, in an order unknown here."""
    columns = of_columns(connection, table.name, schema=schema)
    keys = {RowKey.of(table).name, *(key.parent.name for key in table.foreign_keys)}
    if {columns.get(folded(name), BINARY) for name in keys} - BUILT_IN:
        return True
    listed = connection.execute(f"PRAGMA {schema}.table_list({quoted(table.name)})").fetchall()
    without_rowid = any(row[4] for row in listed)
    return without_rowid and bool(named_by(connection, table.name, schema=schema) - BUILT_IN)


def stand_in(
    connection: sqlite3.Connection, *, schema: str = "main", names: Set[str] | None = None
) -> Set[str]:
    """Let unknown collations compare exactly, so that tables which name them can be read.

    Indexes are in another order, so no query may search them, and no statement may write them.

    Args:
        connection: to the file.
        schema: the name of the file within the connection.
        names: the unknown collations, if another connection to the same schema has found them.

    Returns:
        The unknown collations.
    """
    names = unknown(connection, schema=schema) if names is None else names
    for name in names:
        connection.create_collation(name, compare_exactly)
    return names


def compare_exactly(one: str, other: str) -> int:
    """The order of BINARY, as a collation."""
    return (one > other) - (one < other)


def _texts(
    connection: sqlite3.Connection, sql: str, parameters: tuple[str, ...] = ()
) -> Iterator[str]:
    before = connection.text_factory
    connection.text_factory = bytes
    try:
        found = connection.execute(sql, parameters).fetchall()
    finally:
        connection.text_factory = before
    return (text.decode("utf-8", "replace") for (text,) in found if text is not None)


def _named(texts: Iterator[str]) -> set[str]:
    found = set()
    for text in texts:
        if "COLLATE" not in text.upper():
            continue
        for word, after in itertools.pairwise(tokens.flat(text)):
            if tokens.keyword(word) == "COLLATE":
                found.add(tokens.name(after).upper())
    return found
