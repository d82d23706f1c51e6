"""Block writes to the source's tables, by triggers that raise an error.

The triggers outlive every process, so no writes happen by mistake during the cut-over or later.
Reads and writes to other tables of the file still work.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.quoting import bare, quoted
from pipeline.sqlite import opening
from pipeline.sqlite.catalog.names import as_text
from pipeline.sqlite.snapshot import BUSY_SECONDS, writing

_PREFIX = "pipeline_frozen"
_EVENTS = ("INSERT", "UPDATE", "DELETE")
_MESSAGE = "this table has moved to PostgreSQL or is just moving; see pipeline cutover status"


def freeze(source: Path, tables: Sequence[sa.Table]) -> None:
    """Block writes to these tables as soon as the current transaction of another writer ends.

    Raises:
        SourceError: the file cannot be written, or stays locked.
    """
    with writing(source, why="a cut-over") as connection:
        _remove(connection)
        for _, statement in _triggers(tables):
            connection.execute(statement)


def unfreeze(source: Path) -> bool:
    """Allow writes again; returns whether any table was frozen.

    Raises:
        SourceError: the file cannot be written, or stays locked.
    """
    with writing(source, why="a cut-over") as connection:
        return _remove(connection)


def is_frozen(connection: sqlite3.Connection, tables: Sequence[sa.Table], schema: str) -> bool:
    """Whether all of these tables are frozen."""
    existing = _existing(connection, schema)
    return all((name, bare(statement)) in existing for name, statement in _triggers(tables))


def is_frozen_file(source: Path, tables: Sequence[sa.Table]) -> bool:
    """Whether all of these tables of a file are frozen; False if it cannot be read."""
    try:
        with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as connection:
            return is_frozen(connection, tables, "main")
    except opening.UNREADABLE:
        return False


def own_triggers(connection: sqlite3.Connection) -> set[str]:
    """The names of the triggers that block writes."""
    return {name for name, _ in _existing(connection)}


def _triggers(tables: Sequence[sa.Table]) -> Iterator[tuple[str, str]]:
    for table in tables:
        for event in _EVENTS:
            name = f"{_PREFIX}_{table.name}_{event}".lower()
            yield (
                name,
                f"CREATE TRIGGER {quoted(name)} BEFORE {event} ON {quoted(table.name)}"
                f" BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END",
            )


def _existing(connection: sqlite3.Connection, schema: str = "main") -> set[tuple[str, str]]:
    found = connection.execute(
        f"SELECT name, sql FROM {schema}.sqlite_master"
        f" WHERE type = 'trigger' AND name GLOB '{_PREFIX}_*' AND instr(sql, '{_MESSAGE}') > 0"
    )
    return {(as_text(name), bare(as_text(sql))) for name, sql in found}


def _remove(connection: sqlite3.Connection) -> bool:
    existing = _existing(connection)
    for name, _ in existing:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    return bool(existing)
