"""The second witness of a copy: a sample of rows, read and hashed without the engine's reader.

Python's ``sqlite3`` reads the rows, plain Python encodes them, and the server hashes the rows at
the same positions; see ``pipeline.move.witness``.
"""

import random
from dataclasses import dataclass

from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.moving.filling import Rows
from pipeline.copy.moving.positions import Tile, tiles
from pipeline.copy.source.reading import RowRange
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.findings import DigestDiffers, Finding
from pipeline.core.quoting import quoted
from pipeline.move.witness import stored
from pipeline.move.witness.comparison import expected
from pipeline.move.witness.parts import KeyRange
from pipeline.move.witness.source import SAMPLE_BYTES, SAMPLE_ROWS, Chunk
from pipeline.move.witness.table import Table
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Witnessed:
    """What the second witness found: the number of rows in the sample, and differences."""

    rows: int
    differences: tuple[Finding, ...]


def check(
    target: Target, rows: Rows, place: str, *, seed: str, key: str | None = None
) -> Witnessed:
    """Compare a sample; the whole table if it is small.

    Args:
        target: a session in a transaction with the settings ``positions.IN_ORDER``.
        seed: chooses the sample.
        key: the column that orders the rows, see ``positions.tiles``.
    """
    table = rows.table
    if not table.ranges:
        return Witnessed(0, ())
    at = random.Random(f"{seed} {table.label}").randrange(len(table.ranges))  # noqa: S311
    part = table.ranges[at]
    first, read = _read(rows, part, seed)
    definition, read = _with_one_spelling(table, read)
    size = sum(len(v) for _, _, values in read for v in values if isinstance(v, bytes))
    wanted = expected(target.rows, definition, Chunk(KeyRange(), read, size)).digests
    tile = tiles(target, place, rows.counted, key=key)[at]
    count, found = _stored(target, definition, place, tile, first, len(read))
    if count != len(read):
        return Witnessed(len(read), (_rows_differ(table, len(read), count),))
    differences = tuple(
        DigestDiffers(table.label, name, here, there)
        for (name, _), here, there in zip(definition.columns, wanted, found, strict=True)
        if here != there
    )
    return Witnessed(len(read), differences)


Read = list[tuple[str, object, list[object]]]


def _with_one_spelling(table: CopiedTable, read: Read) -> tuple[Table, Read]:
    """The columns and values that have one spelling only.

    A real that SQLite stores as JSON can be written with 15 or 17 digits.
    """
    columns = [(column.name, column.type) for column in table.mapping.columns]
    kept = [
        at
        for at, (_, kind) in enumerate(columns)
        if not isinstance(kind, JSONB)
        or not any(isinstance(values[at], float) for _, _, values in read)
    ]
    definition = Table(table.name, "", tuple(columns[at] for at in kept), row_id="")
    if len(kept) < len(columns):
        read = [(row, key, [values[at] for at in kept]) for row, key, values in read]
    return definition, read


def _rows_differ(table: CopiedTable, here: int, there: int) -> Finding:
    return DigestDiffers(table.label, "number of rows", str(here), str(there))


def _read(
    rows: Rows, part: RowRange, seed: str
) -> tuple[int, list[tuple[str, object, list[object]]]]:
    """The rows of the sample, and how many rows of the range come before them."""
    table, source = rows.table, rows.source
    row_id = source.row_id(table.source)
    mapping = table.mapping
    outputs = ", ".join(mapping.in_source(column.name) for column in mapping.columns)
    skipped = max(0, part.rows - SAMPLE_ROWS)
    skipped = random.Random(f"{seed} {table.label} rows").randint(0, skipped)  # noqa: S311
    read: list[tuple[str, object, list[object]]] = []
    before = size = 0
    with source.sqlite() as connection:
        found = connection.execute(
            f"SELECT {row_id}, {outputs} FROM {source.rows_of(table.source)}"
            f" WHERE {row_id} BETWEEN ? AND ? ORDER BY {row_id} LIMIT -1 OFFSET {skipped}",
            (part.first, part.last),
        )
        if skipped:
            passed = connection.execute(
                f"SELECT {row_id} FROM {source.rows_of(table.source)}"
                f" WHERE {row_id} BETWEEN ? AND ? ORDER BY {row_id} LIMIT {skipped}",
                (part.first, part.last),
            )
            before = sum(number not in rows.rejected for (number,) in passed)
        for number, *values in found:
            if number in rows.rejected:
                continue
            read.append((str(number), number, values))
            size += sum(len(value) for value in values if isinstance(value, bytes))
            if len(read) == SAMPLE_ROWS or size > SAMPLE_BYTES:
                break
    return before, read


def _stored(
    target: Target, table: Table, place: str, tile: Tile, first: int, count: int
) -> tuple[int, list[str]]:
    """The number of rows of the sample in the target, and the digest of each column."""
    columns = "".join(
        f", {stored.expression(kind, quoted(name))} AS c{n}"
        for n, (name, kind) in enumerate(table.columns)
    )
    outputs = "".join(f", {stored.digest(f'c{n}')}" for n in range(len(table.columns)))
    ((found, *digests),) = target.rows(
        f"SELECT count(*){outputs} FROM (SELECT row_number() OVER () AS k{columns}"
        f" FROM (SELECT * FROM {place} WHERE {tile.chosen} OFFSET {first} LIMIT {count}) AS chosen"
        ") AS r"
    )
    return int(found), digests
