"""Read a table of the target by position: the rows in the order in which they were written.

A table that was filled by one session has its rows in that order; PostgreSQL finds them by their
``ctid``. Whether the order is right does not matter for the proof: equal digests prove equal rows,
and a wrong order makes digests differ. Rows that were updated have moved; then an integer key that
is the row id of the source gives the same order on both sides.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.copy.source.reading import RowRange
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import range_digests
from pipeline.postgres.target import Target

IN_ORDER = (
    "SET LOCAL synchronize_seqscans = off",
    "SET LOCAL max_parallel_workers_per_gather = 0",
)
"""Settings with which a scan returns rows in the order of their positions."""


@dataclass(frozen=True)
class Tile:
    """A part of a table by position, or by an integer key.

    Attributes:
        after: the position or key of the last row before it, as SQL; None for the first tile.
        upto: the position or key of its last row, as SQL; None for the last tile.
        rows: number of rows that it should have.
        key: the column that orders the rows, quoted; None if their positions do.
    """

    after: str | None
    upto: str | None
    rows: int
    key: str | None = None

    @property
    def chosen(self) -> str:
        """The condition of its rows, and their order."""
        by = self.key or "ctid"
        bounds = [
            f"{by} {sign} {at}"
            for sign, at in ((">", self.after), ("<=", self.upto))
            if at is not None
        ]
        # A scan returns rows in the order of their positions.
        order = f" ORDER BY {self.key}" if self.key else ""
        return (" AND ".join(bounds) or "true") + order


@dataclass(frozen=True)
class TileDigests:
    """What the server has in a tile: rows, and the digest of each column (None without rows)."""

    rows: int
    digests: dict[str, str | None]


def tiles(
    target: Target, place: str, ranges: Sequence[tuple[RowRange, int]], *, key: str | None = None
) -> list[Tile]:
    """Divide a table into tiles; the last one also has all further rows.

    Args:
        place: the table as SQL.
        ranges: the rows of each tile in the source, and how many of them the target should have.
        key: the column with the row ids of the source, quoted; None divides by position.
    """
    if not ranges:
        return [Tile(None, None, 0)]
    if key is not None:
        ends: list[str | None] = [str(part.last) for part, _ in ranges[:-1]]
    else:
        ends = _positions(target, place, [count for _, count in ranges[:-1]])
    bounds = [None, *ends, None]
    return [
        Tile(after, upto, rows, key)
        for after, upto, (_, rows) in zip(bounds, bounds[1:], ranges, strict=False)
    ]


def _positions(target: Target, place: str, counts: Sequence[int]) -> list[str | None]:
    """The position of the last row of each tile, as SQL."""
    ends = list(itertools.accumulate(counts))
    if not ends:
        return []
    rows = target.rows(
        "SELECT n, at::text FROM (SELECT row_number() OVER () AS n, ctid AS at"
        f" FROM {place}) AS r WHERE n = ANY($1)",
        (ends,),
    )
    found = {int(number): f"'{at}'::tid" for number, at in rows}
    return [found.get(end) for end in ends]


def read_digests(
    target: Target, mapping: TableMapping, place: str, wanted: Sequence[Tile]
) -> list[TileDigests]:
    """The digests of tiles, in one query."""
    queries = (
        f"(SELECT {n} AS n, q.* FROM ({_digests(mapping, place, tile)}) AS q(c, d))"
        for n, tile in enumerate(wanted)
    )
    names = [column.name for column in mapping.columns]
    return [
        TileDigests(rows, dict(zip(names, digests or [None] * len(names), strict=True)))
        for _, rows, digests in target.rows(f"{' UNION ALL '.join(queries)} ORDER BY n")
    ]


def _digests(mapping: TableMapping, place: str, tile: Tile) -> str:
    rows = f"FROM {place} AS t WHERE {tile.chosen} LIMIT {tile.rows + 1}"
    return range_digests.query(mapping, rows)


def read_column(
    target: Target, mapping: TableMapping, place: str, tile: Tile, column: str
) -> pa.RecordBatch:
    """One column of a tile, as it is read back."""
    value = mapping.casts[column].target(quoted(column))
    rows = f"FROM {place} WHERE {tile.chosen} LIMIT {tile.rows + 1}"
    found = target.arrow(f"SELECT {value} AS {quoted(column)} {rows}", streamed=True)
    array = found.column(0).combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return pa.RecordBatch.from_arrays([array], [column])
