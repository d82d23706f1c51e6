"""Write the replayed rows of a proven copy back to the source itself.

A source on this machine reads them from the attached copy, in one transaction. A source that lives
on a server receives them row by row and is read back.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted
from pipeline.cutover.replay import Replayed, read_triggers, without_triggers
from pipeline.sqlite import copy_markers, opening
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import BUSY_SECONDS, writing

_BATCH_ROWS = 5_000
_WHY = "a rollback"
_DELETE = "DELETE FROM main.{table} WHERE {these}"
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.S)
_INSERT = "INSERT INTO main.{table} ({names}) SELECT {names} FROM proven.{table} WHERE {these}"


def write_back(source: Path, copy: Path, done: Sequence[Replayed]) -> None:
    """Write the changed rows of a proven copy to the source, in one transaction.

    Raises:
        SourceError: the source cannot be written, or stays locked; it is unchanged.
        Transient: the server of the source did not answer.
    """
    if copy_markers.primary_of(source, why=_WHY) is not None:
        _write_to_server(source, copy, done)
        return
    try:
        with closing(
            opening.connect(source, "rw", timeout=BUSY_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("ATTACH ? AS proven", (f"{copy.absolute().as_uri()}?mode=ro",))
            with without_triggers(connection):
                # Delete all rows first, so that unique values are free for other rows.
                for sql in (_DELETE, _INSERT):
                    for found in done:
                        _copy_rows(connection, found, sql)
                _raise_counters(connection, done)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error


def _write_to_server(source: Path, copy: Path, done: Sequence[Replayed]) -> None:
    """Write the rows one by one, because the server has no access to the copy.

    Children are deleted before their parents and inserted after them, and existing rows are
    updated, so enforced foreign keys cause no cascades. The result is read back.
    """
    try:
        with closing(opening.connect(copy, "ro")) as proven:
            with writing(source, why=_WHY) as connection:
                triggers = read_triggers(connection)
                for name, _ in triggers:
                    connection.execute(f"DROP TRIGGER {quoted(name)}")
                for found in reversed(done):
                    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
                    sql = f"DELETE FROM {table} WHERE {key} = ? COLLATE BINARY"
                    for deleted in found.deleted:
                        connection.execute(sql, (deleted,))
                for found in done:
                    _write_rows(connection, proven, found)
                _raise_counters(connection, done)
                for _, sql in triggers:
                    connection.execute(sql)
            _require_written(source, proven, done)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error


def _require_written(source: Path, proven: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Compare every row that was sent with the copy."""
    with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as file:
        for found in done:
            table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
            for each in found.touched:
                sql = f"SELECT * FROM {table} WHERE {key} = ? COLLATE BINARY"
                sides = [repr(side.execute(sql, (each,)).fetchall()) for side in (file, proven)]
                if sides[0] != sides[1]:
                    raise SourceError(
                        f"{found.mapping.name} {each} in the source differs from the row that was"
                        " sent",
                        remedy="Nothing is lost: the application still writes to the target. Check"
                        " that row, then run again",
                    )


def _write_rows(
    connection: sqlite3.Connection, proven: sqlite3.Connection, found: Replayed
) -> None:
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    info = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
    names = [quoted(row[1]) for row in info if not row[6]]
    sets, marks = ", ".join(f"{name} = ?" for name in names), ", ".join("?" * len(names))
    update = f"UPDATE {table} SET {sets} WHERE {key} = ? COLLATE BINARY"
    insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
    deleted, new = set(found.deleted), set(found.inserted)
    for each in found.touched:
        if each not in deleted:
            row = proven.execute(
                f"SELECT {', '.join(names)} FROM {table} WHERE {key} = ? COLLATE BINARY", (each,)
            ).fetchone()
            connection.execute(*((insert, row) if each in new else (update, (*row, each))))


def _copy_rows(connection: sqlite3.Connection, found: Replayed, sql: str) -> None:
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    info = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
    names = ", ".join(quoted(row[1]) for row in info if not row[6])
    touched, these = found.touched, f"{key} COLLATE BINARY IN (SELECT value FROM json_each(?))"
    for start in range(0, len(touched), _BATCH_ROWS):
        batch = (json.dumps(touched[start : start + _BATCH_ROWS]),)
        connection.execute(sql.format(table=table, names=names, these=these), batch)


def _raise_counters(connection: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Raise AUTOINCREMENT counters, so that SQLite does not reuse ids assigned by the target."""
    if not connection.execute(
        "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'"
    ).fetchone():
        return
    # A replica has its own counters, even if its primary database has none.
    counted = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_sequence")}
    for found in done:
        name, last = found.mapping.name, found.last_id
        if last is None:
            continue
        if name in counted:
            connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (last, name)
            )
        elif _assigns_once(connection, name):
            # SQLite creates the counter of a table with its first row.
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, last)
            )


def _assigns_once(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table is declared with AUTOINCREMENT."""
    (sql,) = connection.execute(
        "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    return bool(re.search(r"\bAUTOINCREMENT\b", _QUOTED.sub("", sql), re.I))
