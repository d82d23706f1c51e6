"""Write the replayed rows of a proven copy back to the source itself, in one transaction.

The application's triggers run as far as they can (see ``app_triggers``), and full-text indexes are
checked. If a trigger ran, all moved tables are compared with the copy before the commit.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted
from pipeline.cutover import app_triggers
from pipeline.cutover.app_triggers import AppTrigger, Attempt
from pipeline.cutover.source import full_text, rows
from pipeline.cutover.source.changed_rows import Replayed, rule_of_application, stored_columns
from pipeline.cutover.source.full_text import FullTextIndex
from pipeline.mapping.matching import folded
from pipeline.sqlite import copy_markers, opening
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.snapshot import BUSY_SECONDS, writing
from pipeline.sqlite.structure import tokens

_WHY = "a rollback"


@dataclass
class WrittenBack:
    """What became of the application's triggers and full-text indexes.

    Attributes:
        written: the moved tables of which rows were written, or all if none was.
        notes: sentences by moved table.
    """

    written: Sequence[str]
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, table: str, sentence: str) -> None:
        """Add a sentence about a table; one that is not moved is reported with the last one."""
        # Triggers and indexes name their table in any case.
        same = [name for name in self.written if folded(name) == folded(table)]
        self.notes.setdefault((same or self.written)[-1], []).append(sentence)


class _Failed(Exception):
    """A row or a trigger failed, or a trigger changed moved rows; nothing was changed."""


def write_back(source: Path, copy: Path, done: Sequence[Replayed]) -> WrittenBack:
    """Write the changed rows of a proven copy to the source, in one transaction.

    Raises:
        SourceError: the source cannot be written, or stays locked; it is unchanged.
        Transient: the server of the source did not answer.
    """
    remote = copy_markers.primary_of(source, why=_WHY) is not None
    names = [found.mapping.name for found in done]
    try:
        with closing(opening.connect(copy, "rw", isolation_level=None)) as connection:
            attempts = app_triggers.attempts(connection, names, remote=remote)
        with closing(opening.connect(copy, "ro")) as proven:
            result = _first_that_works(source, proven, done, attempts, copy=copy, remote=remote)
            if remote:
                _require_written(source, proven, done)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error
    return result


def _first_that_works(
    source: Path,
    proven: sqlite3.Connection,
    done: Sequence[Replayed],
    attempts: Sequence[Attempt],
    *,
    copy: Path,
    remote: bool,
) -> WrittenBack:
    for attempt in attempts:
        try:
            with _transaction(source, copy, remote=remote) as connection:
                return _write(connection, proven, done, attempt, remote=remote)
        except _Failed as error:
            failure = error
    cause = failure.__cause__
    if isinstance(cause, sqlite3.DatabaseError):
        raise rule_of_application(cause) or cause
    raise SourceError(
        f"{failure} in the source differs from the row that was written",
        remedy="Check that row, then run again",
    )


@contextmanager
def _transaction(source: Path, copy: Path, *, remote: bool) -> Iterator[sqlite3.Connection]:
    """A transaction on the source without foreign keys; a file has the copy attached."""
    if remote:
        with writing(source, why=_WHY) as connection:
            yield connection
        return
    with closing(
        opening.connect(source, "rw", timeout=BUSY_SECONDS, isolation_level=None)
    ) as connection:
        # Rows are written in any order, and cascades have happened in the target already.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("ATTACH ? AS proven", (f"{copy.absolute().as_uri()}?mode=ro",))
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            # A trigger may have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _write(
    connection: sqlite3.Connection,
    proven: sqlite3.Connection,
    done: Sequence[Replayed],
    attempt: Attempt,
    *,
    remote: bool,
) -> WrittenBack:
    """Write all rows in one way, within a transaction.

    Raises:
        _Failed: a row or a trigger failed, or a trigger changed rows of a moved table.
    """
    names = [found.mapping.name for found in done]
    indexes = full_text.find(connection, names, written=attempt.written)
    before = {index: index.check(connection) for index in indexes}
    triggers = [each for each in app_triggers.read(connection) if not each.own]
    writer: rows.Writer = (
        rows.ServerWriter(connection, proven) if remote else rows.FileWriter(connection)
    )
    try:
        with (
            app_triggers.dropped(connection, attempt.off),
            app_triggers.running(connection, names),
        ):
            rows.write(connection, writer, done)
        if not remote and {each.name for each in triggers} - attempt.off.keys():
            _require_equal(connection, done)
        _raise_counters(connection, done)
        result = WrittenBack(_written(done) or names)
        for index, fault in before.items():
            _settle(connection, index, fault, result)
    except sqlite3.DatabaseError as error:
        raise _Failed from error
    _note_triggers(done, triggers, attempt, result)
    return result


def _note_triggers(
    done: Sequence[Replayed],
    triggers: Sequence[AppTrigger],
    attempt: Attempt,
    result: WrittenBack,
) -> None:
    """Name the triggers of written tables, and those of other tables that did not run."""
    moved = {found.mapping.name.lower() for found in done}
    written = {name.lower() for name in _written(done)}
    for each in triggers:
        table, why = each.table.lower(), attempt.off.get(each.name)
        if table in written:
            result.note(table, f"trigger {each.name} {f'did not run: {why}' if why else 'ran'}")
        elif why and written and table not in moved:
            # Other triggers would have started it.
            result.note(table, f"trigger {each.name} of {each.table} did not run: {why}")


def _written(done: Sequence[Replayed]) -> list[str]:
    return [found.mapping.name for found in done if found.touched]


def _settle(
    connection: sqlite3.Connection, index: FullTextIndex, before: str | None, result: WrittenBack
) -> None:
    """Check a full-text index after the rows were written; rebuild it if they broke it."""
    place = index.content or index.name
    if before is not None:
        result.note(
            place,
            f"full-text index {index.name} was not consistent before the rollback ({before})"
            " and was not rebuilt",
        )
    elif index.check(connection) is None:
        result.note(place, f"full-text index {index.name} is consistent")
    else:
        index.rebuild(connection)
        why = index.check(connection)
        fate = (
            f"is not consistent ({why}); rebuild it with the application" if why else "was rebuilt"
        )
        result.note(place, f"full-text index {index.name} {fate}")


def _require_equal(connection: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Compare all rows of all moved tables with the copy, as bytes.

    Raises:
        _Failed: names a row that differs.
    """
    for found in done:
        table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
        differs = " OR ".join(
            f"typeof(m.{name}) <> typeof(p.{name}) OR m.{name} IS NOT p.{name} COLLATE BINARY"
            for name in stored_columns(connection, found.mapping.name)
        )
        for one, other, condition in (
            ("main", "proven", f"p.{key} IS NULL OR {differs}"),
            ("proven", "main", f"p.{key} IS NULL"),
        ):
            row = connection.execute(
                f"SELECT m.{key} FROM {one}.{table} AS m LEFT JOIN {other}.{table} AS p"
                f" ON p.{key} = m.{key} COLLATE BINARY WHERE {condition} LIMIT 1"
            ).fetchone()
            if row is not None:
                raise _Failed(f"{found.mapping.name} {row[0]}")


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
                        remedy="Check that row, then run again",
                    )


def _raise_counters(connection: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Raise AUTOINCREMENT counters, so that SQLite does not reuse ids assigned by the target."""
    if not connection.execute(
        "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'"
    ).fetchone():
        return
    # A replica has its own counters, even if its primary database has none.
    rows = connection.execute("SELECT name FROM main.sqlite_sequence")
    counted = {folded(name) for (name,) in rows}
    for found in done:
        name, last = found.mapping.name, found.last_id
        if last is None:
            continue
        if folded(name) in counted:
            connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ? COLLATE NOCASE",
                (last, name),
            )
        elif _assigns_once(connection, name):
            # SQLite creates the counter of a table with its first row.
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT name, ? FROM main.sqlite_master"
                " WHERE type = 'table' AND name = ? COLLATE NOCASE",
                (last, name),
            )


def _assigns_once(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table is declared with AUTOINCREMENT."""
    (sql,) = connection.execute(
        "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()
    return tokens.has_keyword(sql, "AUTOINCREMENT")
