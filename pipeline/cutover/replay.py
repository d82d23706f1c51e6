"""Replay changes of the target into a copy of the source, row by row.

The outbox holds the keys of the changed rows. Both sides are compared first, as in a move, so only
different values are written; all others keep their bytes.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core.policies import Policies
from pipeline.core.quoting import quoted
from pipeline.cutover import capture, reverse, rounding
from pipeline.cutover.source import unique_values
from pipeline.cutover.source.changed_rows import (
    NotReversible,
    Replayed,
    require_known_collations,
    rule_of_application,
)
from pipeline.declared.rules import SharedRules
from pipeline.mapping import secret
from pipeline.mapping.matching import folded
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare.changes import Changes
from pipeline.move.compare.comparison import RowsByKey
from pipeline.move.ledger import overrides, quarantine
from pipeline.move.proof import constraints, table_checks
from pipeline.move.reading.pinned_source import PinnedSource, pinned
from pipeline.move.reading.prepare import surveyed
from pipeline.postgres import relations
from pipeline.postgres.target import Target
from pipeline.sqlite import opening
from pipeline.sqlite.catalog.faults import unreadable

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 5_000


def replay(
    copy: Path, target: Target, tables: Sequence[sa.Table], *, policies: Policies, folder: Path
) -> list[Replayed]:
    """Write the captured changes of the target to a copy of the source.

    Args:
        copy: the copy; no other process has it open.
        target: a session in a transaction that locks out writers.
        tables: parents before children.

    Raises:
        NotReversible: the source cannot store a row; the message names it.
        SourceError: the copy cannot be read.
    """
    replayed = []
    with pinned(copy, folder, tables=tables) as live:
        live.target_types = relations.column_types(target, [table.name for table in tables])
        for table in tables:
            mapping = live.match(table, policies)
            found = _compare(mapping, live, target)
            found.rounded = rounding.round_moments(target, found)
            rounding.trim_numbers(target, found)
            replayed.append(found)
    try:
        with closing(opening.connect(copy, "rw", isolation_level=None)) as connection:
            changed = [found.mapping.name for found in replayed if found.touched]
            require_known_collations(connection, changed)
            before = _orphans(connection)
            with _without_triggers(connection):
                for changes in replayed:
                    _write(connection, changes, target)
            _require_parents(connection, before)
    except opening.UNREADABLE as error:
        raise rule_of_application(error) or unreadable(copy, error) from error
    return replayed


def _compare(mapping: TableMapping, live: PinnedSource, target: Target) -> Replayed:
    """Find the differences of the rows that were written."""
    keys = capture.keys(target, mapping)
    if keys is None:
        keys = _all_keys(mapping, live, target)
    found = Replayed(mapping, keys, last_id=_last_id(target, mapping))
    if not keys:
        return found
    live.take_rows(mapping, keys=keys, row_ids=())
    overrides.apply(live, [mapping.table], overrides.read(target, [mapping.name]), mapping.policies)
    prepared = surveyed(mapping, live)
    waiting = quarantine.row_ids(target, mapping.name)
    quarantined = {*prepared.survey.rejected}
    quarantined |= {live.row_id_from(mapping, each) for each in waiting}

    def note(changes: Changes) -> None:
        found.deleted += changes.missing.to_pylist()
        for differing in changes.differing:
            found.updated.setdefault(differing.column, []).extend(differing.keys.to_pylist())

    batches = table_checks.unchecked_batches(live, mapping, prepared.survey, without=quarantined)
    table_checks.examine(
        target, mapping, prepared.survey, batches, on_tile_compared=note, scope=RowsByKey(())
    )
    in_source, name = set(live.taken_keys(mapping)), quoted(mapping.key.name)
    in_target = target.rows(
        f"SELECT {name} FROM {quoted(mapping.name)} WHERE {name} = ANY($1)", (keys,)
    )
    found.inserted = sorted({key for (key,) in in_target} - in_source)
    rejected = {str(key) for key in live.keys_by_row_id(mapping, list(quarantined))}
    both = sorted(rejected & {str(key) for (key,) in in_target})
    if both:
        raise NotReversible(
            f"{mapping.name} {', '.join(both[:5])}: the source has a rejected row with this"
            " key, and the target now has another row with it",
            remedy="Give the row in the target another key, then run again",
        )
    return found


def _last_id(target: Target, mapping: TableMapping) -> int | None:
    sequence = constraints.find_sequence(target, mapping)
    if sequence is None:
        return None
    return int(target.value(f"SELECT last_value - (NOT is_called)::int FROM {sequence}"))


def _all_keys(mapping: TableMapping, live: PinnedSource, target: Target) -> list[Any]:
    """Keys of all rows of both sides."""
    name = quoted(mapping.key.name)
    in_target = {key for (key,) in target.rows(f"SELECT {name} FROM {quoted(mapping.name)}")}
    return sorted(in_target | set(live.all_keys(mapping)))


def _write(connection: sqlite3.Connection, found: Replayed, target: Target) -> None:
    mapping = found.mapping
    table, key = quoted(mapping.name), quoted(mapping.key.name)
    info = connection.execute(f"PRAGMA table_xinfo({table})")
    names = {folded(row[1]) for row in info if not row[6]}
    columns = [c for c in mapping.columns if folded(mapping.source_name(c.name)) in names]
    these = f"{key} = ?1 AND {key} = ?1 COLLATE BINARY"
    connection.executemany(f"DELETE FROM {table} WHERE {these}", [(k,) for k in found.deleted])
    changed = sorted({k for keys in found.updated.values() for k in keys})
    unique_values.release(connection, found)
    updated = {name: set(keys) for name, keys in found.updated.items()}
    as_bytes = _columns_of_bytes(connection, mapping, columns)
    for rows in _rows(target, mapping, columns, changed, as_bytes):
        for position, column in enumerate(columns, start=1):
            if column.name not in updated:
                continue
            values = [(row[0], row[position]) for row in rows if row[0] in updated[column.name]]
            _run(
                connection,
                f"UPDATE {table} SET {mapping.in_source(column.name)} = ?2 WHERE {these}",
                values,
                mapping,
                key_position=0,
            )
    marks = ", ".join("?" * len(columns))
    listed = ", ".join(mapping.in_source(column.name) for column in columns)
    for rows in _rows(target, mapping, columns, found.inserted, as_bytes):
        sql = f"INSERT INTO {table} ({listed}) VALUES ({marks})"
        position = [column.name for column in columns].index(mapping.key.name)
        _run(connection, sql, [row[1:] for row in rows], mapping, key_position=position)


def _run(
    connection: sqlite3.Connection,
    sql: str,
    rows: Sequence[tuple[Any, ...]],
    mapping: TableMapping,
    *,
    key_position: int,
) -> None:
    """Execute a statement for each row."""
    for row in rows:
        try:
            connection.execute(sql, row)
        except (sqlite3.IntegrityError, OverflowError) as error:
            raise NotReversible(
                f"{mapping.name} {row[key_position]} cannot be written to the source: {error}",
                remedy="Change that row in the target, then run again",
            ) from error


def _columns_of_bytes(
    connection: sqlite3.Connection, mapping: TableMapping, columns: Sequence[sa.Column[Any]]
) -> frozenset[str]:
    """Names of columns whose UUIDs the source stores as BLOBs, as the first of them shows."""
    found = set()
    for column in columns:
        name = mapping.in_source(column.name)
        sql = f"SELECT typeof({name}) FROM {quoted(mapping.name)} WHERE {name} IS NOT NULL LIMIT 1"
        if isinstance(column.type, sa.Uuid) and connection.execute(sql).fetchone() == ("blob",):
            found.add(column.name)
    return frozenset(found)


def _rows(
    target: Target,
    mapping: TableMapping,
    columns: Sequence[sa.Column[Any]],
    keys: Sequence[Any],
    as_bytes: frozenset[str],
) -> Iterator[list[tuple[Any, ...]]]:
    """Key and values of rows of the target as SQLite stores them, in bounded batches."""
    name, table = quoted(mapping.key.name), quoted(mapping.name)
    zone = mapping.policies.naive_zone
    moments = SharedRules.of(mapping.table.metadata).moments
    outputs = ", ".join(
        reverse.expression(column, zone=zone, moments=moments) for column in columns
    )
    for batch in _batches(target, mapping, keys):
        sql = f"SELECT {name}, {outputs} FROM {table} WHERE {name} = ANY($1)"
        rows = target.rows(sql, (batch,))
        _require_storable(mapping, columns, rows)
        kinds = [None, *columns]
        yield [
            tuple(
                value
                if column is None
                else reverse.stored(column, value, as_bytes=column.name in as_bytes)
                for column, value in zip(kinds, row, strict=True)
            )
            for row in rows
        ]


def _require_storable(
    mapping: TableMapping, columns: Sequence[sa.Column[Any]], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Refuse values that SQLite cannot store, such as infinite dates."""
    for position, column in enumerate(columns, start=1):
        for row in rows:
            if not reverse.is_storable(column, row[position]):
                (given,) = secret.hidden(mapping.table, column.name, [row[position]])
                is_date = isinstance(column.type, sa.DateTime | sa.Date)
                kind = "date of the years 1 to 9999" if is_date else "value"
                raise NotReversible(
                    f"{mapping.name} {row[0]}, {column.name}: SQLite cannot store {given}",
                    remedy=f"Set a finite {kind} in the target, then run again; nothing was"
                    " changed",
                )


def _batches(target: Target, mapping: TableMapping, keys: Sequence[Any]) -> Iterator[list[Any]]:
    """Keys in batches whose rows fit into memory."""
    name, table = quoted(mapping.key.name), quoted(mapping.name)
    sizes = [
        f"coalesce(octet_length({quoted(column.name)}"
        f"{'' if isinstance(column.type, sa.LargeBinary) else '::text'}), 0)::bigint"
        for column in mapping.columns
        if isinstance(column.type, sa.LargeBinary | sa.String | sa.JSON)
    ]
    for start in range(0, len(keys), _BATCH_ROWS):
        batch: list[Any] = []
        size = 0
        for key, bytes_ in target.rows(
            f"SELECT {name}, {' + '.join(sizes) or '0::bigint'} FROM {table} WHERE {name} = ANY($1)"
            f" ORDER BY {name}",
            (list(keys[start : start + _BATCH_ROWS]),),
        ):
            if batch and size + bytes_ > _BATCH_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(key)
            size += bytes_
        if batch:
            yield batch


@contextmanager
def _without_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction without triggers, which are created again at its end.

    Foreign keys are not enforced in it, because rows are written in any order.
    """
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("BEGIN IMMEDIATE")
    try:
        triggers = connection.execute(
            "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER main.{quoted(name)}")
        yield
        for _, sql in triggers:
            connection.execute(sql)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _orphans(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    return set(connection.execute("PRAGMA foreign_key_check").fetchall())


def _require_parents(connection: sqlite3.Connection, before: set[tuple[Any, ...]]) -> None:
    """Refuse rows without the parent row that a foreign key of the source requires."""
    orphans = sorted(_orphans(connection) - before, key=str)
    if orphans:
        table, row, parent, _ = orphans[0]
        which = f"{table} {row}" if row is not None else f"A row of {table}"
        others = len(orphans) - 1
        more = f"; {others:,} more rows have the same problem" if others else ""
        raise NotReversible(
            f"{which} would refer to a missing row of {parent}{more}",
            remedy="Let these rows refer to existing rows in their database, or bring the missing"
            " rows back in the target, then run again; nothing was changed",
        )
