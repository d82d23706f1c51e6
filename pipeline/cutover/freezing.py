"""Keep everybody from writing the source's tables, by triggers that refuse.

They outlive every process, so nobody writes by mistake while the application is switched over, or
afterwards. Reading goes on, and so does writing the file's other tables.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.contract import bare
from pipeline.sqlite import opening
from pipeline.sqlite.snapshot import BUSY_SECONDS, writing

_PREFIX = "pipeline_frozen"
_EVENTS = ("INSERT", "UPDATE", "DELETE")
_SAYS = "this table has moved to PostgreSQL or is just moving; see pipeline cutover status"


def freeze(source: Path, tables: Sequence[sa.Table]) -> None:
    """Let every write of these tables fail, once the transaction that is under way has ended.

    Raises:
        SourceError: the file cannot be written, or stays locked.
    """
    with writing(source, why="a cut-over") as connection:
        _remove(connection)
        for _, statement in _triggers(tables):
            connection.execute(statement)


def unfreeze(source: Path) -> bool:
    """Let the tables be written again; returns whether any was frozen.

    Raises:
        SourceError: the file cannot be written, or stays locked.
    """
    with writing(source, why="a cut-over") as connection:
        return _remove(connection)


def is_frozen(connection: sqlite3.Connection, tables: Sequence[sa.Table], schema: str) -> bool:
    """Whether all of these tables are frozen.

    Args:
        connection: one that sees the source.
        tables: the tables.
        schema: the name by which the connection knows the source.
    """
    there = _there(connection, schema)
    return all((name, bare(statement)) in there for name, statement in _triggers(tables))


def is_frozen_file(source: Path, tables: Sequence[sa.Table]) -> bool:
    """Whether all of these tables of a file are frozen; a file that cannot be read is not."""
    try:
        with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as connection:
            return is_frozen(connection, tables, "main")
    except opening.UNREADABLE:
        return False


def _triggers(tables: Sequence[sa.Table]) -> Iterator[tuple[str, str]]:
    for table in tables:
        for event in _EVENTS:
            name = f"{_PREFIX}_{table.name}_{event}".lower()
            yield (
                name,
                f"CREATE TRIGGER {quoted(name)} BEFORE {event} ON {quoted(table.name)}"
                f" BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END",
            )


def _there(connection: sqlite3.Connection, schema: str = "main") -> set[tuple[str, str]]:
    found = connection.execute(
        f"SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM {schema}.sqlite_master"
        f" WHERE type = 'trigger' AND name GLOB '{_PREFIX}_*' AND instr(sql, '{_SAYS}') > 0"
    )
    return {(name.decode(), bare(sql.decode())) for name, sql in found}


def _remove(connection: sqlite3.Connection) -> bool:
    there = _there(connection)
    for name, _ in there:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    return bool(there)
