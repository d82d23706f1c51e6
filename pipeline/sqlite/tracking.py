"""Exact tracking of what changed in the source, by triggers; it is off until somebody asks for it.

Every insert, update and delete of a tracked table notes the row's key in one log table of the
source, within the application's own transaction. A run reads the log and never writes it; triggers
cut it to its newest entries. Each entry carries a random token, so that a log that is not the one
that was read before (switched off and on again, cut too short, restored from a backup) is known by
the token of the last entry read.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import bare
from pipeline.mapping.row_key import RowKey
from pipeline.sqlite import opening
from pipeline.sqlite.snapshot import BUSY_SECONDS, require_table, unreadable, validate, writing

LOG = "pipeline_changes"
KEPT_CHANGES = 1_000_000
"""Entries that the log holds at most; who comes later than that must compare everything."""

_LOG_DDL = (
    f"CREATE TABLE {LOG} (change INTEGER PRIMARY KEY, table_name TEXT, key,"
    " token BLOB NOT NULL DEFAULT (randomblob(8)))"
)


@dataclass(frozen=True)
class Position:
    """A place in the log: the number of an entry, and its token in hexadecimal digits."""

    change: int
    token: str


@dataclass(frozen=True)
class Status:
    """Whether a source is tracked.

    Attributes:
        tracked: names of the tables whose triggers are there.
        untracked: names of those whose triggers are missing or altered.
        entries: entries of the log, None where there is no log.
    """

    tracked: tuple[str, ...]
    untracked: tuple[str, ...]
    entries: int | None


def switch_on(source: Path, tables: Iterable[sa.Table]) -> bool:
    """Install the log and the triggers, or mend what is left of them; all or nothing.

    Returns:
        False where nothing was missing, so that nothing was written.

    Raises:
        SourceError: the file cannot be written, lacks a table, or has a unique index whose
            conflicts cannot be tracked.
    """
    tables = list(tables)
    with writing(source, why="tracking") as connection:
        if _there(connection) and all(_complete(connection, table) for table in tables):
            return False
        _remove(connection)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (LOG,)).fetchone():
            raise SourceError(
                f"The source {source} has a table {LOG} of its own, the name of the log of changes",
                remedy="Sync without tracking, by dates and sizes",
            )
        connection.execute(_LOG_DDL)
        for table in tables:
            require_table(connection, table, source)
            for statement in _triggers(connection, table).values():
                connection.execute(statement)
        connection.execute(f"INSERT INTO {LOG} (table_name) VALUES (NULL)")
    return True


def switch_off(source: Path) -> bool:
    """Remove triggers and log; returns whether there were any.

    Raises:
        SourceError: the file cannot be written.
    """
    with writing(source, why="tracking") as connection:
        return _remove(connection)


def status(source: Path, tables: Iterable[sa.Table]) -> Status:
    """Look whether a source is tracked; nothing is written.

    Raises:
        SourceError: the file cannot be read.
    """
    validate(source)
    try:
        with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as connection:
            there = _there(connection)
            whole = {table.name: there and _complete(connection, table) for table in tables}
            count = f"SELECT count(*) FROM {LOG}"
            entries = connection.execute(count).fetchone()[0] if there else None
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error
    return Status(
        tuple(name for name, complete in whole.items() if complete),
        tuple(name for name, complete in whole.items() if not complete),
        entries,
    )


def position(
    connection: sqlite3.Connection, table: sa.Table, *, schema: str = "main"
) -> Position | None:
    """The newest entry of the log; None where the table is not tracked.

    Args:
        connection: one that sees the source.
        table: the table.
        schema: the name by which the connection knows the source.
    """
    if not _there(connection, schema) or not _complete(connection, table, schema):
        return None
    found = connection.execute(
        f"SELECT change, hex(token) FROM {schema}.{LOG} ORDER BY change DESC LIMIT 1"
    ).fetchone()
    return Position(found[0], _text(found[1])) if found else None


def continues(connection: sqlite3.Connection, after: Position, *, schema: str) -> bool:
    """Whether the log still holds the very entry that was read last."""
    found = connection.execute(
        f"SELECT hex(token) FROM {schema}.{LOG} WHERE change = ?", (after.change,)
    ).fetchone()
    return found is not None and _text(found[0]) == after.token


def changed_since(table: str, after: Position, *, schema: str) -> tuple[str, tuple[Any, ...]]:
    """A query for keys of the rows of a table that were written or deleted since."""
    query = f"SELECT key FROM {schema}.{LOG} WHERE change > ? AND table_name = ?"
    return query, (after.change, table)


def _triggers(
    connection: sqlite3.Connection, table: sa.Table, schema: str = "main"
) -> dict[str, str]:
    """Name -> statement of every trigger of a table."""
    key = RowKey.of(table).sql
    name = table.name.replace("'", "''")

    def trigger(when: str, event: str, *keys: str) -> tuple[str, str]:
        called = f"{LOG}_{table.name}_{when}_{event}".lower()
        notes = " ".join(
            f"INSERT INTO {LOG} (table_name, key) SELECT '{name}', {each};" for each in keys
        )
        cut = f"DELETE FROM {LOG} WHERE change <= (SELECT max(change) FROM {LOG}) - {KEPT_CHANGES};"
        return called, (
            f"CREATE TRIGGER {quoted(called)} {when} {event} ON {quoted(table.name)}"
            f" BEGIN {notes} {cut} END"
        )

    found = dict(
        (
            trigger("AFTER", "INSERT", f"NEW.{key}"),
            trigger("AFTER", "DELETE", f"OLD.{key}"),
            trigger("AFTER", "UPDATE", f"OLD.{key}", f"NEW.{key} WHERE NEW.{key} IS NOT OLD.{key}"),
        )
    )
    # A row that goes because REPLACE makes room for another one fires no trigger of its own.
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
    """Columns, each with its collation, that are unique together, the key alone left out.

    Raises:
        SourceError: an index is partial, or on an expression.
    """
    key, name = RowKey.of(table).name, quoted(table.name)
    info = connection.execute(f"PRAGMA {schema}.table_info({name})").fetchall()
    primary = [_text(row[1]) for row in info if row[5]]
    if len(primary) == 1 and primary != [key]:
        # Of a rowid by another name there is no index.
        yield [(primary[0], "BINARY")]
    for row in connection.execute(f"PRAGMA {schema}.index_list({name})").fetchall():
        _, index, unique, _, partial = row
        if not unique:
            continue
        told = connection.execute(f"PRAGMA {schema}.index_xinfo({quoted(_text(index))})").fetchall()
        columns = [
            (None if column is None else _text(column), _text(order))
            for _, _, column, _, order, of_key in told
            if of_key
        ]
        named = [(column, order) for column, order in columns if column is not None]
        if partial or len(named) < len(columns):
            raise SourceError(
                f"{table.name} cannot be tracked: its unique index {_text(index)} is partial or on"
                " an expression, so what REPLACE deletes because of it would not be noticed",
                remedy="Sync without tracking, by dates and sizes",
            )
        if named != [(key, "BINARY")]:
            yield named


def _there(connection: sqlite3.Connection, schema: str = "main") -> bool:
    found = connection.execute(
        f"SELECT sql FROM {schema}.sqlite_master WHERE type = 'table' AND name = ?", (LOG,)
    ).fetchone()
    return found is not None and bare(_text(found[0])) == bare(_LOG_DDL)


def _complete(connection: sqlite3.Connection, table: sa.Table, schema: str = "main") -> bool:
    """Whether all triggers of a table are there, word for word."""
    there = {
        name: bare(sql) for name, sql, on in _our_triggers(connection, schema) if on == table.name
    }
    try:
        meant = _triggers(connection, table, schema)
        return there == {name: bare(sql) for name, sql in meant.items()}
    except SourceError:
        return False


def _our_triggers(
    connection: sqlite3.Connection, schema: str = "main"
) -> list[tuple[str, str, str]]:
    """Triggers that write the log, as (name, statement, table)."""
    found = connection.execute(
        f"SELECT name, sql, tbl_name FROM {schema}.sqlite_master WHERE type = 'trigger'"
        f" AND name GLOB '{LOG}_*' AND instr(sql, 'INSERT INTO {LOG} ') > 0"
    )
    return [(_text(name), _text(sql), _text(table)) for name, sql, table in found]


def _remove(connection: sqlite3.Connection) -> bool:
    there = _there(connection)
    triggers = _our_triggers(connection)
    for name, *_ in triggers:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    if there:
        connection.execute(f"DROP TABLE {LOG}")
    return there or bool(triggers)


def _text(value: Any) -> str:
    # A connection for rows of the source delivers texts as bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
