"""Rows of the source, read with Python's ``sqlite3``, and samples of them."""

import bisect
import itertools
import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.quoting import quoted
from pipeline.move.witness.parts import Key, KeyRange, KeySet, Part, is_valid_key
from pipeline.move.witness.table import Table

SAMPLE_ROWS = 512
"""Tables with at most this many rows are read completely; larger ones give about this many."""

SAMPLE_BYTES = 4 * 2**20
_STRIPS = 16
Row = tuple[str, Any, list[Any]]
"""The row id, the key and the values of a row in SQLite."""


def rows(table: Table, connection: sqlite3.Connection, part: Part) -> Iterator[Row]:
    """Rows of a part that are not in quarantine, in the order of their keys.

    Args:
        connection: returns texts as bytes.
    """
    kept = frozenset(table.kept)
    where, parameters = _where(table, part)
    outputs = ", ".join(quoted(table.source_names.get(name, name)) for name, _ in table.columns)
    select = f"SELECT CAST({table.row_id} AS TEXT), {quoted(table.key)}, {outputs} FROM"
    order = f"ORDER BY {quoted(table.key)} COLLATE BINARY"
    for prefix, of_corrected in _places(table):
        name = f"{prefix}{quoted(table.name)}"
        found = connection.execute(f"{select} {name} WHERE {where} {order}", parameters)
        for row_id, key, *values in found:
            named = row_id.decode() if isinstance(row_id, bytes) else str(row_id)
            if named in table.quarantined or plain(key) in kept:
                continue
            if of_corrected is None or (named in table.corrected) is of_corrected:
                yield named, key, _filled(table, values)


def _places(table: Table) -> list[tuple[str, bool | None]]:
    """Prefixes of table names, each with whether to read corrected or uncorrected rows there."""
    if table.corrected:
        return [(table.prefix, False), (table.corrections, True)]
    return [(table.prefix, None)]


def _filled(table: Table, values: list[Any]) -> list[Any]:
    if not table.fills:
        return values
    return [
        table.fills.get(name) if value is None else value
        for (name, _), value in zip(table.columns, values, strict=True)
    ]


def _where(table: Table, part: Part) -> tuple[str, list[Any]]:
    key = quoted(table.key)
    if isinstance(part, KeySet):
        return f"{key} COLLATE BINARY IN (SELECT value FROM json_each(?))", [
            json.dumps(list(part.keys))
        ]
    bounds = [(sign, end) for sign, end in ((">", part.after), ("<=", part.upto))]
    conditions = [f"{key} {sign} ? COLLATE BINARY" for sign, end in bounds if end is not None]
    return " AND ".join(conditions) or "1", [end for _, end in bounds if end is not None]


@dataclass(frozen=True)
class Chunk:
    """Rows of one part.

    Attributes:
        part: ends with the last row that was read.
        bytes: the size of the texts and BLOBs.
    """

    part: Part
    rows: list[Row]
    bytes: int


def read_chunks(
    table: Table, connection: sqlite3.Connection, *, count: int, size: int, after: Key | None = None
) -> Iterator[Chunk]:
    """A table in read_chunks of limited size; the last one has no upper bound.

    Args:
        connection: returns texts as bytes.
        count: approximate number of rows per chunk.
        size: approximate number of bytes per chunk.
        after: start after this key.
    """
    taken: list[Row] = []
    seen = 0
    for row in rows(table, connection, KeyRange(after)):
        taken.append(row)
        seen += _size(row)
        full = len(taken) >= count or seen >= size
        if full and is_valid_key(row[1], table.key_kind):
            last = plain(row[1])
            yield Chunk(KeyRange(after, last), taken, seen)
            taken, seen, after = [], 0, last
    yield Chunk(KeyRange(after), taken, seen)


def _size(row: Row) -> int:
    return sum(len(value) for value in row[2] if isinstance(value, bytes))


def sample(
    table: Table, connection: sqlite3.Connection, *, cuts: Sequence[tuple[Any, int]], seed: int
) -> Iterator[Chunk]:
    """Chunks of a table that start at random rows; the whole table if it is small.

    Chunks with large values end early, so that all of them fit into memory.

    Args:
        connection: returns texts as bytes.
        cuts: ascending keys of the table, each with the number of rows up to the next.
    """
    if not _is_long(table, connection):
        whole = next(read_chunks(table, connection, count=SAMPLE_ROWS, size=SAMPLE_BYTES))
        if whole.part == KeyRange():
            yield whole
            return
    count, size = SAMPLE_ROWS // _STRIPS, SAMPLE_BYTES // _STRIPS
    last: Any = None
    found = seen = 0
    for start in _starts(table, connection, cuts, random.Random(seed)):  # noqa: S311  # no secret
        after = start if last is None else max(start, last)
        strip = next(read_chunks(table, connection, count=count, size=size, after=after))
        yield strip
        last = strip.part.upto  # type: ignore[union-attr]
        found, seen = found + len(strip.rows), seen + strip.bytes
        if last is None or seen >= SAMPLE_BYTES:
            break
    if not found:
        # All chosen rows are in quarantine.
        yield next(read_chunks(table, connection, count=count, size=size))


def chosen(
    table: Table, connection: sqlite3.Connection, keys: Sequence[Key], *, most: int, seed: int
) -> Iterator[Chunk]:
    """Rows with these keys, or with a random sample of at most ``most`` of them."""
    some = list(keys)
    if len(some) > most:
        some = random.Random(seed).sample(some, most)  # noqa: S311  # a sample, no secret
    for start in range(0, len(some), SAMPLE_ROWS):
        left = dict.fromkeys(some[start : start + SAMPLE_ROWS])
        taken: list[Row] = []
        seen = 0
        for row in rows(table, connection, KeySet(tuple(left))):
            taken.append(row)
            seen += _size(row)
            if seen >= SAMPLE_BYTES:
                yield Chunk(KeySet(_without(left, taken)), taken, seen)
                taken, seen = [], 0
        # Includes keys that the source does not have; the target must not have them either.
        yield Chunk(KeySet(tuple(left)), taken, seen)


def _without(left: dict[Key, None], taken: list[Row]) -> tuple[Key, ...]:
    """The keys of these rows, which are removed from ``left``."""
    keys = tuple(dict.fromkeys(plain(key) for _, key, _ in taken))
    for key in keys:
        left.pop(key, None)
    return keys


def _is_long(table: Table, connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        f"SELECT 1 FROM {table.prefix}{quoted(table.name)} LIMIT 1 OFFSET {SAMPLE_ROWS}"
    )
    return found.fetchone() is not None


def _starts(
    table: Table,
    connection: sqlite3.Connection,
    cuts: Sequence[tuple[Any, int]],
    chance: random.Random,
) -> Iterator[Key]:
    """Keys of random rows, ascending."""
    key, name = quoted(table.key), f"{table.prefix}{quoted(table.name)}"
    ends = list(itertools.accumulate(rows for _, rows in cuts))
    for position in sorted(chance.randrange(ends[-1]) for _ in range(_STRIPS if ends else 0)):
        at = bisect.bisect_right(ends, position)
        found = connection.execute(
            f"SELECT {key} FROM {name} WHERE {key} >= ? COLLATE BINARY"
            f" ORDER BY {key} COLLATE BINARY LIMIT 1 OFFSET ?",
            (cuts[at][0], position - (ends[at] - cuts[at][1])),
        ).fetchone()
        if found is not None and is_valid_key(found[0], table.key_kind):
            yield plain(found[0])


def plain(key: Any) -> Any:
    """A key as a Python value; invalid text stays bytes."""
    if not isinstance(key, bytes):
        return key
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
