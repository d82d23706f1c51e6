"""Exact tracking of changes in the source by triggers; tracking is off by default.

Each insert, update and delete in a tracked table adds the row's key to a log table of the source,
within the application's own transaction. Runs read the log and never write it; triggers keep only
the newest entries. Each entry has a random token. If the log is not the one that was read before
(switched off and on again, truncated, restored from a backup), the token of the last entry that was
read does not match.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import change_log
from pipeline.sqlite.catalog.change_log import LOG
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import BUSY_SECONDS, validate, writing
from pipeline.sqlite.tables import require_table


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
        if change_log.log_exists(connection) and all(
            change_log.is_complete(connection, table) for table in tables
        ):
            return False
        _remove(connection)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (LOG,)).fetchone():
            raise SourceError(
                f"The source {source} already has a table {LOG}, the name of the change log itself",
                remedy="Sync without tracking, by dates and sizes",
            )
        connection.execute(change_log.LOG_DDL)
        for table in tables:
            require_table(connection, table, source)
            for statement in change_log.triggers(connection, table).values():
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
            has_log = change_log.log_exists(connection)
            complete = {
                table.name: has_log and change_log.is_complete(connection, table)
                for table in tables
            }
            count = f"SELECT count(*) FROM {LOG}"
            entries = connection.execute(count).fetchone()[0] if has_log else None
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error
    return Status(
        tuple(name for name, tracked in complete.items() if tracked),
        tuple(name for name, tracked in complete.items() if not tracked),
        entries,
    )


def own_triggers(connection: sqlite3.Connection) -> set[str]:
    """The names of the triggers that write the log."""
    return {name for name, *_ in change_log.our_triggers(connection)}


def _remove(connection: sqlite3.Connection) -> bool:
    has_log = change_log.log_exists(connection)
    triggers = change_log.our_triggers(connection)
    for name, *_ in triggers:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    if has_log:
        connection.execute(f"DROP TABLE {LOG}")
    return has_log or bool(triggers)
