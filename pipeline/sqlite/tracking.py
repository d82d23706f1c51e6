"""Exact tracking of changes in the source by triggers; tracking is off by default.

Each insert, update and delete in a tracked table adds the row's key to a log table of the source,
within the application's own transaction. Runs read the log and never write it; triggers keep only
the newest entries. Each entry has a random token. If the log is not the one that was read before
(switched off and on again, truncated, restored from a backup), the token of the last entry that was
read does not match.
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
from pipeline.sqlite.snapshot import BUSY_SECONDS, unreadable, validate, writing
from pipeline.sqlite.tables import as_text, require_table

LOG = "pipeline_changes"
KEPT_CHANGES = 1_000_000
"""The most entries of the log; a sync that missed older ones compares everything."""

_LOG_DDL = (
    f"CREATE TABLE {LOG} (change INTEGER PRIMARY KEY, table_name TEXT, key,"
    " token BLOB NOT NULL DEFAULT (randomblob(8)))"
)


@dataclass(frozen=True)
class Position:
    """A position in the log: the number of an entry and its token in hexadecimal."""

    change: int
    token: str


@dataclass(frozen=True)
class Status:
    """The state of tracking.

    Attributes:
        tracked: names of tables with all triggers.
        untracked: names of tables whose triggers are missing or altered.
        entries: the number of log entries; None if there is no log.
    """

    tracked: tuple[str, ...]
    untracked: tuple[str, ...]
    entries: int | None


def switch_on(source: Path, tables: Iterable[sa.Table]) -> bool:
    """Install or repair the log and the triggers, in one transaction.

    Returns:
        False if nothing was missing and nothing was written.

    Raises:
        SourceError: the source cannot be written, lacks a table, or has a unique index whose
            conflicts cannot be tracked.
    """
    tables = list(tables)
    with writing(source, why="tracking") as connection:
        if _log_exists(connection) and all(_complete(connection, table) for table in tables):
            return False
        _remove(connection)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (LOG,)).fetchone():
            raise SourceError(
                f"The source {source} already has a table {LOG}, the name of the change log itself",
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
    """Remove the triggers and the log; return whether there were any.

    Raises:
        SourceError: the source cannot be written.
    """
    with writing(source, why="tracking") as connection:
        return _remove(connection)


def status(source: Path, tables: Iterable[sa.Table]) -> Status:
    """Read the state of tracking; nothing is written.

    Raises:
        SourceError: the source cannot be read.
    """
    validate(source)
    try:
        with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as connection:
            has_log = _log_exists(connection)
            complete = {table.name: has_log and _complete(connection, table) for table in tables}
            count = f"SELECT count(*) FROM {LOG}"
            entries = connection.execute(count).fetchone()[0] if has_log else None
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error
    return Status(
        tuple(name for name, tracked in complete.items() if tracked),
        tuple(name for name, tracked in complete.items() if not tracked),
        entries,
    )


def position(
    connection: sqlite3.Connection, table: sa.Table, *, schema: str = "main"
) -> Position | None:
    """The newest entry of the log; None if the table is not tracked.

    ``schema`` is the name of the source in the connection.
    """
    if not _log_exists(connection, schema) or not _complete(connection, table, schema):
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


def _triggers(
    connection: sqlite3.Connection, table: sa.Table, schema: str = "main"
) -> dict[str, str]:
    """Name -> SQL of every trigger of a table."""
    key = RowKey.of(table).sql
    name = table.name.replace("'", "''")

    def trigger(when: str, event: str, *keys: str) -> tuple[str, str]:
        trigger_name = f"{LOG}_{table.name}_{when}_{event}".lower()
        inserts = " ".join(
            f"INSERT INTO {LOG} (table_name, key) SELECT '{name}', {each};" for each in keys
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
            trigger("AFTER", "UPDATE", f"OLD.{key}", f"NEW.{key} WHERE NEW.{key} IS NOT OLD.{key}"),
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
    if len(primary) == 1 and primary != [key]:
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
        if named != [(key, "BINARY")]:
            yield named


def _log_exists(connection: sqlite3.Connection, schema: str = "main") -> bool:
    found = connection.execute(
        f"SELECT sql FROM {schema}.sqlite_master WHERE type = 'table' AND name = ?", (LOG,)
    ).fetchone()
    return found is not None and bare(as_text(found[0])) == bare(_LOG_DDL)


def _complete(connection: sqlite3.Connection, table: sa.Table, schema: str = "main") -> bool:
    """Whether all triggers of a table exist without changes."""
    existing = {
        name: bare(sql) for name, sql, on in _our_triggers(connection, schema) if on == table.name
    }
    try:
        expected = _triggers(connection, table, schema)
        return existing == {name: bare(sql) for name, sql in expected.items()}
    except SourceError:
        return False


def own_triggers(connection: sqlite3.Connection) -> set[str]:
    """The names of the triggers that write the log."""
    return {name for name, *_ in _our_triggers(connection, "main")}


def _our_triggers(
    connection: sqlite3.Connection, schema: str = "main"
) -> list[tuple[str, str, str]]:
    """Triggers that write the log, as (name, SQL, table)."""
    found = connection.execute(
        f"SELECT name, sql, tbl_name FROM {schema}.sqlite_master WHERE type = 'trigger'"
        f" AND name GLOB '{LOG}_*' AND instr(sql, 'INSERT INTO {LOG} ') > 0"
    )
    return [(as_text(name), as_text(sql), as_text(table)) for name, sql, table in found]


def _remove(connection: sqlite3.Connection) -> bool:
    has_log = _log_exists(connection)
    triggers = _our_triggers(connection)
    for name, *_ in triggers:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    if has_log:
        connection.execute(f"DROP TABLE {LOG}")
    return has_log or bool(triggers)
