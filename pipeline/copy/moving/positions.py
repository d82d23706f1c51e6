"""Read a table of the target by position: the rows in the order in which they were written.

A table that was filled by one session has its rows in that order; PostgreSQL finds them by their
``ctid``. Whether the order is right does not matter for the proof: equal digests prove equal rows,
and a wrong order makes digests differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

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
    """A part of a table by position.

    Attributes:
        after: the position of the last row before it, None for the first tile.
        upto: the position of its last row, None for the last tile.
        rows: number of rows that it should have.
    """

    after: str | None
    upto: str | None
    rows: int

    @property
    def where(self) -> str:
        """The condition of its rows."""
        bounds = [
            f"ctid {sign} '{at}'::tid"
            for sign, at in ((">", self.after), ("<=", self.upto))
            if at is not None
        ]
        return " AND ".join(bounds) or "true"


@dataclass(frozen=True)
class TileDigests:
    """What the server has in a tile: rows, and the digest of each column (None without rows)."""

    rows: int
    digests: dict[str, str | None]


def tiles(target: Target, place: str, counts: Sequence[int]) -> list[Tile]:
    """Divide a table into tiles.

    Args:
        place: the table as SQL.
        counts: rows of each tile; the last tile also has all further rows.
    """
    ends, total = list[int](), 0
    for count in counts[:-1]:
        total += count
        ends.append(total)
    found: dict[int, str] = {}
    if ends:
        rows = target.rows(
            "SELECT n, at::text FROM (SELECT row_number() OVER () AS n, ctid AS at"
            f" FROM {place}) AS r WHERE n = ANY($1)",
            (ends,),
        )
        found = {int(number): at for number, at in rows}
    bounds = [None, *(found.get(end) if end else None for end in ends), None]
    return [
        Tile(after, upto, rows)
        for after, upto, rows in zip(bounds, bounds[1:], counts, strict=False)
    ]


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
    elements = [
        range_digests.element(c.type, mapping.casts[c.name].target(quoted(c.name)))
        for c in mapping.columns
    ]
    columns = ", ".join(f"{element} AS c{n}" for n, element in enumerate(elements))
    digests = ", ".join(range_digests.aggregate(f"c{n}") for n in range(len(elements)))
    return (
        f"SELECT pg_catalog.count(*), ARRAY[{digests}] FROM (SELECT {columns}"
        f" FROM {place} AS t WHERE {tile.where} LIMIT {tile.rows + 1}) AS r"
    )


def read_column(
    target: Target, mapping: TableMapping, place: str, tile: Tile, column: str
) -> pa.RecordBatch:
    """One column of a tile, as it is read back."""
    value = mapping.casts[column].target(quoted(column))
    found = target.arrow(
        f"SELECT {value} AS {quoted(column)} FROM {place} WHERE {tile.where} LIMIT {tile.rows + 1}",
        streamed=True,
    )
    array = found.column(0).combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return pa.RecordBatch.from_arrays([array], [column])
