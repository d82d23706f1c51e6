"""The change log of a source, as its tables and triggers say: what ``tracking`` installs.

Runs only read the log.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.quoting import bare, literal, quoted
from pipeline.mapping.matching import folded
from pipeline.mapping.row_key import RowKey
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.catalog.names import as_text

LOG = "pipeline_changes"
KEPT_CHANGES = 1_000_000
"""The most entries of the log; a sync that missed older ones compares everything."""

LOG_DDL = (
    f"CREATE TABLE {LOG} (change INTEGER PRIMARY KEY, table_name TEXT, key,"
    " token BLOB NOT NULL DEFAULT (randomblob(8)))"
)


@dataclass(frozen=True)
class Position:
    """A position in the log: the number of an entry and its token in hexadecimal."""

    change: int
    token: str


def position(
    connection: sqlite3.Connection, table: sa.Table, *, schema: str = "main"
) -> Position | None:
    """The newest entry of the log; None if the table is not tracked.

    ``schema`` is the name of the source in the connection.
    """
    if not log_exists(connection, schema) or not is_complete(connection, table, schema):
        return None
    found = connection.execute(
        f"SELECT change, hex(token) FROM {schema}.{LOG} ORDER BY change DESC LIMIT 1"
    ).fetchone()
    return Position(found[0], as_text(found[1])) if found else None


def continues(connection: sqlite3.Connection, after: Position, *, schema: str) -> bool:
    """Whether the log still contains the entry that was read last."""
    found = connection.execute(
        f"SELECT hex(token) FROM {schema}.{LOG} WHERE change = ?", (after.change,)
    ).fetchone()
    return found is not None and as_text(found[0]) == after.token


def changed_since(table: str, after: Position, *, schema: str) -> tuple[str, tuple[Any, ...]]:
    """A query for the keys of a table's rows that were written or deleted since."""
    query = f"SELECT key FROM {schema}.{LOG} WHERE change > ? AND table_name = ?"
    return query, (after.change, table)


def triggers(
    connection: sqlite3.Connection, table: sa.Table, schema: str = "main"
) -> dict[str, str]:
    """Name -> SQL of every trigger of a table.

    Raises:
        SourceError: a unique index is partial or on an expression.
    """
    key = RowKey.of(table).sql
    collated = collations.of_columns(connection, table.name, schema=schema)
    exactly = " COLLATE BINARY" if folded(RowKey.of(table).name) in collated else ""
    name = literal(table.name)

    def trigger(when: str, event: str, *keys: str) -> tuple[str, str]:
        trigger_name = f"{LOG}_{table.name}_{when}_{event}".lower()
        inserts = " ".join(
            f"INSERT INTO {LOG} (table_name, key) SELECT {name}, {each};" for each in keys
        )
        cut = f"DELETE FROM {LOG} WHERE change <= (SELECT max(change) FROM {LOG}) - {KEPT_CHANGES};"
        return trigger_name, (
            f"CREATE TRIGGER {quoted(trigger_name)} {when} {event} ON {quoted(table.name)}"
            f" BEGIN {inserts} {cut} END"
        )

    found = dict(
        (
            trigger("AFTER", "INSERT", f"NEW.{key}"),
            trigger("AFTER", "DELETE", f"OLD.{key}"),
            trigger(
                "AFTER",
                "UPDATE",
                f"OLD.{key}",
                f"NEW.{key} WHERE NEW.{key} IS NOT OLD.{key}{exactly}",
            ),
        )
    )
    # A row that REPLACE deletes because of a conflict fires no delete trigger.
    rivals = [
        " AND ".join(
            f"r.{quoted(column)} = NEW.{quoted(column)} COLLATE {quoted(order)}"
            for column, order in columns
        )
        for columns in _unique(connection, table, schema)
    ]
    if rivals:
        replaced = f"r.{key} FROM {quoted(table.name)} AS r WHERE {' OR '.join(rivals)}"
        found |= dict(trigger("BEFORE", event, replaced) for event in ("INSERT", "UPDATE"))
    return found


def _unique(
    connection: sqlite3.Connection, table: sa.Table, schema: str
) -> Iterator[list[tuple[str, str]]]:
    """Unique sets of columns, each with its collation, except the key alone.

    Raises:
        SourceError: a unique index is partial or on an expression.
    """
    key, name = RowKey.of(table).name, quoted(table.name)
    info = connection.execute(f"PRAGMA {schema}.table_info({name})").fetchall()
    primary = [as_text(row[1]) for row in info if row[5]]
    if len(primary) == 1 and folded(primary[0]) != folded(key):
        # An alias of the rowid has no index.
        yield [(primary[0], "BINARY")]
    for row in connection.execute(f"PRAGMA {schema}.index_list({name})").fetchall():
        _, index, unique, _, partial = row
        if not unique:
            continue
        index_info = f"PRAGMA {schema}.index_xinfo({quoted(as_text(index))})"
        columns = [
            (None if column is None else as_text(column), as_text(order))
            for _, _, column, _, order, of_key in connection.execute(index_info).fetchall()
            if of_key
        ]
        named = [(column, order) for column, order in columns if column is not None]
        if partial or len(named) < len(columns):
            raise SourceError(
                f"{table.name} cannot be tracked: its unique index {as_text(index)} is partial or"
                " on an expression, so rows that REPLACE deletes would not be logged",
                remedy="Sync without tracking, by dates and sizes. For a cut-over, drop that index"
                " first, and let the application create it again afterwards",
            )
        if [(folded(column), order) for column, order in named] != [(folded(key), "BINARY")]:
            yield named


def log_exists(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether the log exists as tracking creates it."""
    found = connection.execute(
        f"SELECT sql FROM {schema}.sqlite_master WHERE type = 'table' AND name = ?", (LOG,)
    ).fetchone()
    return found is not None and bare(as_text(found[0])) == bare(LOG_DDL)


def is_complete(connection: sqlite3.Connection, table: sa.Table, schema: str = "main") -> bool:
    """Whether all triggers of a table exist without changes."""
    existing = {
        name: bare(sql)
        for name, sql, on in our_triggers(connection, schema)
        if folded(on) == folded(table.name)
    }
    try:
        expected = triggers(connection, table, schema)
        return existing == {name: bare(sql) for name, sql in expected.items()}
    except SourceError:
        return False


def our_triggers(
    connection: sqlite3.Connection, schema: str = "main"
) -> list[tuple[str, str, str]]:
    """Triggers that write the log, as (name, SQL, table)."""
    found = connection.execute(
        f"SELECT name, sql, tbl_name FROM {schema}.sqlite_master WHERE type = 'trigger'"
        f" AND name GLOB '{LOG}_*' AND instr(sql, 'INSERT INTO {LOG} ') > 0"
    )
    return [(as_text(name), as_text(sql), as_text(table)) for name, sql, table in found]
