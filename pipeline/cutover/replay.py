"""What was written to the target, put into a copy of the source, row by row.

The rows are those whose keys the outbox names. Both sides are compared first, with the comparison
of a move, so only values that differ are written and all others keep the bytes they had.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import PipelineError, SourceError
from pipeline.core.policies import Policies
from pipeline.core.quoting import quoted
from pipeline.cutover import capture, reverse
from pipeline.declared.rules import SharedRules
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.compare.changes import Changes
from pipeline.move.ledger import overrides, quarantine
from pipeline.move.proof import table_checks
from pipeline.move.reading.live import LiveSource, pinned
from pipeline.move.reading.prepare import surveyed
from pipeline.postgres.target import Target
from pipeline.sqlite import followed, opening
from pipeline.sqlite.snapshot import BUSY_SECONDS, unreadable, writing

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 5_000


class NotReversible(PipelineError):
    """A row of the target cannot be put into the source."""


@dataclass
class Replayed:
    """What was done to one table of the copy.

    Attributes:
        mapping: the table.
        keys: rows that others wrote in the target.
        inserted: keys of rows that only the target had.
        updated: keys of rows that differed, by column.
        deleted: keys of rows that the target has no more.
        last_id: the last one that the target gave out, whether its row is there or not.
    """

    mapping: TableMapping
    keys: list[Any]
    inserted: list[Any] = field(default_factory=list)
    updated: dict[str, list[Any]] = field(default_factory=dict)
    deleted: list[Any] = field(default_factory=list)
    last_id: int | None = None

    @property
    def touched(self) -> list[Any]:
        """Keys of all rows of the copy that are not as they were."""
        changed = {key for keys in self.updated.values() for key in keys}
        return sorted({*self.inserted, *self.deleted, *changed})


def replay(
    copy: Path, target: Target, tables: Sequence[sa.Table], *, policies: Policies, folder: Path
) -> list[Replayed]:
    """Make a copy of the source hold what others wrote to the target.

    Args:
        copy: the copy; nobody else has it open.
        target: a session in a transaction that keeps writers out.
        tables: parents before children.
        policies: what a person decided.
        folder: where private files are made.

    Raises:
        NotReversible: a row has no place in the source; the message names it.
        SourceError: the copy cannot be read.
    """
    done = []
    with pinned(copy, folder, tables=tables) as live:
        for table in tables:
            mapping = match(table, live.columns(table.name), policies)
            done.append(_compare(mapping, live, target))
    try:
        with closing(opening.connect(copy, "rw", isolation_level=None)) as connection:
            before = _orphans(connection)
            with _without_triggers(connection):
                for found in done:
                    _write(connection, found, target)
            _require_parents(connection, before)
    except opening.UNREADABLE as error:
        raise unreadable(copy, error) from error
    return done


def _compare(mapping: TableMapping, live: LiveSource, target: Target) -> Replayed:
    """Find what differs among the rows that were written."""
    keys = capture.keys(target, mapping)
    if keys is None:
        keys = _all_keys(mapping, live, target)
    found = Replayed(mapping, keys, last_id=_last_id(target, mapping))
    if not keys:
        return found
    live.take_rows(mapping, keys=keys, row_ids=())
    overrides.apply(live, [mapping.table], overrides.read(target, [mapping.name]))
    prepared = surveyed(mapping, live)
    waiting = quarantine.row_ids(target, mapping.name)
    aside = {*prepared.survey.rejected, *(live.row_id_from(mapping, each) for each in waiting)}

    def note(changes: Changes) -> None:
        found.deleted += changes.missing.to_pylist()
        for differing in changes.differing:
            found.updated.setdefault(differing.column, []).extend(differing.keys.to_pylist())

    batches = table_checks.as_found(live, mapping, prepared.survey, without=aside)
    table_checks.examine(target, mapping, prepared.survey, batches, on_changes=note, among=())
    there, name = set(live.taken_keys(mapping)), quoted(mapping.key.name)
    in_target = target.rows(
        f"SELECT {name} FROM {quoted(mapping.name)} WHERE {name} = ANY($1)", (keys,)
    )
    found.inserted = sorted({key for (key,) in in_target} - there)
    rejected = {str(key) for key in live.keys_of(mapping, list(aside))}
    both = sorted(rejected & {str(key) for (key,) in in_target})
    if both:
        raise NotReversible(
            f"{mapping.name} {', '.join(both[:5])}: the source has a row of this key that could"
            " not move, and the target now has another one",
            remedy="Give the row in the target another key, then run again",
        )
    return found


def _last_id(target: Target, mapping: TableMapping) -> int | None:
    sequence = table_checks.sequence_of(target, mapping)
    if sequence is None:
        return None
    return int(target.value(f"SELECT last_value - (NOT is_called)::int FROM {sequence}"))


def _all_keys(mapping: TableMapping, live: LiveSource, target: Target) -> list[Any]:
    """Keys of all rows of either side."""
    name = quoted(mapping.key.name)
    theirs = {key for (key,) in target.rows(f"SELECT {name} FROM {quoted(mapping.name)}")}
    return sorted(theirs | set(live.all_keys(mapping)))


def _write(connection: sqlite3.Connection, found: Replayed, target: Target) -> None:
    mapping = found.mapping
    table, key = quoted(mapping.name), quoted(mapping.key.name)
    names = {row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})") if not row[6]}
    columns = [column for column in mapping.columns if column.name in names]
    connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(k,) for k in found.deleted])
    changed = sorted({k for keys in found.updated.values() for k in keys})
    _free(connection, found)
    these = {name: set(keys) for name, keys in found.updated.items()}
    for rows in _rows(target, mapping, columns, changed):
        for at, column in enumerate(columns):
            if column.name not in these:
                continue
            values = [(row[at + 1], row[0]) for row in rows if row[0] in these[column.name]]
            _run(
                connection,
                f"UPDATE {table} SET {quoted(column.name)} = ? WHERE {key} = ?",
                values,
                mapping,
                at=1,
            )
    marks = ", ".join("?" * len(columns))
    listed = ", ".join(quoted(column.name) for column in columns)
    for rows in _rows(target, mapping, columns, found.inserted):
        sql = f"INSERT INTO {table} ({listed}) VALUES ({marks})"
        where = [column.name for column in columns].index(mapping.key.name)
        _run(connection, sql, [row[1:] for row in rows], mapping, at=where)


def _free(connection: sqlite3.Connection, found: Replayed) -> None:
    """Let go of unique values that other rows are about to take; each gets its own again.

    SQLite holds each row against the others as it is written, so two rows cannot swap a value.
    """
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    unique = _unique_columns(connection, found.mapping.name)
    # What stands there for a moment keeps no rule.
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for name in sorted(unique & found.updated.keys()):
        number = isinstance(found.mapping.table.columns[name].type, sa.Integer)
        value = "random()" if number else "hex(randomblob(16))"
        connection.executemany(
            f"UPDATE {table} SET {quoted(name)} = {value} WHERE {key} = ?",
            [(k,) for k in found.updated[name]],
        )
    connection.execute("PRAGMA ignore_check_constraints = OFF")


def _unique_columns(connection: sqlite3.Connection, table: str) -> set[str]:
    found = connection.execute(
        "SELECT i.name FROM pragma_index_list(?) AS l, pragma_index_info(l.name) AS i"
        ' WHERE l."unique"',
        (table,),
    )
    return {name for (name,) in found}


def _run(
    connection: sqlite3.Connection,
    sql: str,
    rows: Sequence[tuple[Any, ...]],
    mapping: TableMapping,
    *,
    at: int,
) -> None:
    """Execute for each row; ``at`` is where its key stands."""
    for row in rows:
        try:
            connection.execute(sql, row)
        except (sqlite3.IntegrityError, OverflowError) as error:
            raise NotReversible(
                f"{mapping.name} {row[at]} cannot be put into the source: {error}",
                remedy="Change that row in the target, then run again",
            ) from error


def _rows(
    target: Target, mapping: TableMapping, columns: Sequence[sa.Column[Any]], keys: Sequence[Any]
) -> Iterator[list[tuple[Any, ...]]]:
    """Key and values of rows of the target as SQLite is to hold them, in bounded batches."""
    name, table = quoted(mapping.key.name), quoted(mapping.name)
    zone = mapping.policies.naive_zone
    moments = SharedRules.of(mapping.table.metadata).moments
    outputs = ", ".join(
        reverse.expression(column, zone=zone, moments=moments) for column in columns
    )
    for some in _batches(target, mapping, keys):
        rows = target.rows(f"SELECT {name}, {outputs} FROM {table} WHERE {name} = ANY($1)", (some,))
        _require_ends(mapping, columns, rows)
        yield rows


def _require_ends(
    mapping: TableMapping, columns: Sequence[sa.Column[Any]], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Refuse a date without end, for which SQLite has no letters."""
    for at, column in enumerate(columns, start=1):
        if isinstance(column.type, sa.DateTime):
            for row in rows:
                if row[at] in ("infinity", "-infinity"):
                    raise NotReversible(
                        f"{mapping.name} {row[0]}, {column.name}: {row[at]} has no place in SQLite",
                        remedy="Give it a date in the target, then run again; nothing was changed",
                    )


def _batches(target: Target, mapping: TableMapping, keys: Sequence[Any]) -> Iterator[list[Any]]:
    """Keys in pieces whose rows fit into memory."""
    name, table = quoted(mapping.key.name), quoted(mapping.name)
    sizes = [
        f"coalesce(octet_length({quoted(column.name)}"
        f"{'' if isinstance(column.type, sa.LargeBinary) else '::text'}), 0)::bigint"
        for column in mapping.columns
        if isinstance(column.type, sa.LargeBinary | sa.String | sa.JSON)
    ]
    for start in range(0, len(keys), _BATCH_ROWS):
        piece: list[Any] = []
        size = 0
        for key, bytes_ in target.rows(
            f"SELECT {name}, {' + '.join(sizes) or '0::bigint'} FROM {table} WHERE {name} = ANY($1)"
            f" ORDER BY {name}",
            (list(keys[start : start + _BATCH_ROWS]),),
        ):
            if piece and size + bytes_ > _BATCH_BYTES:
                yield piece
                piece, size = [], 0
            piece.append(key)
            size += bytes_
        if piece:
            yield piece


@contextmanager
def _without_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction in which nothing but what is said happens; triggers are there again after it.

    Foreign keys are not enforced in it: rows come in any order.
    """
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("BEGIN IMMEDIATE")
    try:
        triggers = _triggers_of(connection)
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER main.{quoted(name)}")
        yield
        for _, sql in triggers:
            connection.execute(sql)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _triggers_of(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger'"
    ).fetchall()


def put(source: Path, copy: Path, done: Sequence[Replayed]) -> None:
    """Put the rows that were written to a proven copy into the source, in one transaction.

    Raises:
        SourceError: the source cannot be written, or stays locked; it is as it was.
        Transient: the source lives on a server that did not answer.
    """
    if followed.primary_of(source, why=_WHY) is not None:
        _put_elsewhere(source, copy, done)
        return
    try:
        with closing(
            opening.connect(source, "rw", timeout=BUSY_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("ATTACH ? AS proven", (f"{copy.absolute().as_uri()}?mode=ro",))
            with _without_triggers(connection):
                # Everything goes first, so that what is unique is free for whoever has it now.
                for sql in (_DELETE, _INSERT):
                    for found in done:
                        _put(connection, found, sql)
                _raise_counters(connection, done)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error


def _put_elsewhere(source: Path, copy: Path, done: Sequence[Replayed]) -> None:
    """Put the rows where the source lives, one by one: it does not see the copy.

    Children go before their parents and come after them, and a row that stays is updated: where
    foreign keys are enforced nothing goes by cascade. What arrived is read back.
    """
    try:
        with closing(opening.connect(copy, "ro")) as proven:
            with writing(source, why=_WHY) as connection:
                triggers = _triggers_of(connection)
                for name, _ in triggers:
                    connection.execute(f"DROP TRIGGER {quoted(name)}")
                for found in reversed(done):
                    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
                    for gone in found.deleted:
                        connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (gone,))
                for found in done:
                    _write_elsewhere(connection, proven, found)
                _raise_counters(connection, done)
                for _, sql in triggers:
                    connection.execute(sql)
            _require_arrived(source, proven, done)
    except opening.UNREADABLE as error:
        raise unreadable(source, error) from error


def _require_arrived(source: Path, proven: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Hold every row that was sent against the copy, as the source has it now."""
    with closing(opening.connect(source, "ro", timeout=BUSY_SECONDS)) as file:
        for found in done:
            table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
            for each in found.touched:
                sql = f"SELECT * FROM {table} WHERE {key} = ?"
                sides = [repr(side.execute(sql, (each,)).fetchall()) for side in (file, proven)]
                if sides[0] != sides[1]:
                    raise SourceError(
                        f"{found.mapping.name} {each} did not arrive at the source as it was sent",
                        remedy="Nothing is lost, the application still writes to the target; look"
                        " at that row, and run again",
                    )


def _write_elsewhere(
    connection: sqlite3.Connection, proven: sqlite3.Connection, found: Replayed
) -> None:
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    info = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
    names = [quoted(row[1]) for row in info if not row[6]]
    sets, marks = ", ".join(f"{name} = ?" for name in names), ", ".join("?" * len(names))
    update = f"UPDATE {table} SET {sets} WHERE {key} = ?"
    insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
    gone, new = set(found.deleted), set(found.inserted)
    for each in found.touched:
        if each not in gone:
            row = proven.execute(
                f"SELECT {', '.join(names)} FROM {table} WHERE {key} = ?", (each,)
            ).fetchone()
            connection.execute(*((insert, row) if each in new else (update, (*row, each))))


_WHY = "the way back"
_DELETE = "DELETE FROM main.{table} WHERE {these}"
_INSERT = "INSERT INTO main.{table} ({names}) SELECT {names} FROM proven.{table} WHERE {these}"


def _put(connection: sqlite3.Connection, found: Replayed, sql: str) -> None:
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    info = connection.execute(f"PRAGMA main.table_xinfo({table})").fetchall()
    names = ", ".join(quoted(row[1]) for row in info if not row[6])
    touched, these = found.touched, f"{key} IN (SELECT value FROM json_each(?))"
    for start in range(0, len(touched), _BATCH_ROWS):
        some = (json.dumps(touched[start : start + _BATCH_ROWS]),)
        connection.execute(sql.format(table=table, names=names, these=these), some)


def _raise_counters(connection: sqlite3.Connection, done: Sequence[Replayed]) -> None:
    """Where SQLite gives no id twice (AUTOINCREMENT), none of those that the target gave out."""
    if not connection.execute(
        "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'"
    ).fetchone():
        return
    # A replica has counters of its own, where the database that it follows may have none.
    counted = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_sequence")}
    for found in done:
        if found.last_id is not None and found.mapping.name in counted:
            connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?",
                (found.last_id, found.mapping.name),
            )


def _orphans(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    return set(connection.execute("PRAGMA foreign_key_check").fetchall())


def _require_parents(connection: sqlite3.Connection, before: set[tuple[Any, ...]]) -> None:
    """Refuse rows that have lost, or never had, the parent that the source's schema demands."""
    orphans = sorted(_orphans(connection) - before, key=str)
    if orphans:
        table, row, parent, _ = orphans[0]
        raise NotReversible(
            f"{table} {row} would refer to a row of {parent} that is not there, and so would"
            f" {len(orphans) - 1} more",
            remedy="Delete or mend these rows where they live, then run again",
        )
