"""Read the target in tiles: digests, rows or keys of a key range, in the order of the keys."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import range_digests
from pipeline.move.reading.surveys import BATCH_ROWS, Range
from pipeline.postgres.driver.statements import inline, value_literal
from pipeline.postgres.target import Target

_TILE_ROWS = 2 * BATCH_ROWS


class TooManyRows(Exception):
    """A tile has many more rows than the source's range."""


@dataclass(frozen=True)
class TileRange:
    """The keys of one tile: above ``after``, if there is one, and up to the end of ``part``.

    Attributes:
        mapping: the columns to compare.
    """

    mapping: TableMapping
    after: Any
    part: Range


@dataclass(frozen=True)
class TileDigests:
    """What the server has in one tile.

    Attributes:
        rows: number of rows; counting stops when there are more than the source has.
        digests: digest of each column, None without rows.
    """

    rows: int
    digests: dict[str, str | None]


def read_digests(
    target: Target, ranges: Sequence[TileRange], *, beyond: bool
) -> tuple[list[TileDigests], bool]:
    """The digests of tiles, in one query.

    Args:
        beyond: the last tile is the last of the table.

    Returns:
        The digests, and whether the target has keys beyond the last tile (if asked for).
    """
    queries = [
        _digests(
            tile.mapping, _within(tile.mapping, tile.after, tile.part.last), tile.part.rows + 1
        )
        for tile in ranges
    ]
    if beyond:
        last = ranges[-1]
        where = f"{_key_sql(last.mapping)} > {_bound(last.mapping, last.part.last)}"
        queries.append(
            "SELECT pg_catalog.count(*), NULL::text[]"
            f" FROM (SELECT FROM {quoted(last.mapping.name)} WHERE {where} LIMIT 1) AS r"
        )
    found = _each(target, queries)
    tiles = zip(ranges, found, strict=False)
    stored = [_tile_digests(tile.mapping, *counted) for tile, counted in tiles]
    return stored, beyond and bool(found[-1][0])


def read_digests_of_rows(target: Target, mapping: TableMapping, keys: pa.Array) -> TileDigests:
    """The digests of the rows with these keys."""
    query = _digests(mapping, f"{quoted(mapping.key.name)} = ANY($1)", len(keys) + 1)
    ((rows, digests),) = _each(target, [inline(query, [keys.to_pylist()])])
    return _tile_digests(mapping, rows, digests)


def _digests(mapping: TableMapping, where: str, most: int) -> str:
    """A query for the number of rows and the digest of every column."""
    return range_digests.query(
        mapping,
        f"FROM {quoted(mapping.name)} AS t WHERE {where} ORDER BY t.{_key_sql(mapping)}"
        f" LIMIT {most}",
    )


def _each(target: Target, queries: Sequence[str]) -> list[tuple[int, list[str | None] | None]]:
    """The results of queries for one row each, in one round trip."""
    numbered = (f"(SELECT {n} AS n, q.* FROM ({q}) AS q(c, d))" for n, q in enumerate(queries))
    found = target.rows(f"{' UNION ALL '.join(numbered)} ORDER BY n")
    return [(rows, digests) for _, rows, digests in found]


def _tile_digests(
    mapping: TableMapping, rows: int, digests: list[str | None] | None
) -> TileDigests:
    names = [column.name for column in mapping.columns]
    return TileDigests(rows, dict(zip(names, digests or [None] * len(names), strict=True)))


def _outputs(mapping: TableMapping, only: Collection[str] | None = None) -> str:
    return ", ".join(
        f"{mapping.casts[c.name].target(quoted(c.name))} AS {quoted(c.name)}"
        for c in mapping.columns
        if only is None or c.name in only
    )


def _key_sql(mapping: TableMapping) -> str:
    text = mapping.casts[mapping.key.name].raw == pa.string()
    return quoted(mapping.key.name) + (' COLLATE "C"' if text else "")


def read_tile(
    target: Target, tile: TileRange, *, only: Collection[str] | None = None
) -> pa.RecordBatch:
    """The target's rows of a tile.

    Args:
        only: the columns to read; None for all.

    Raises:
        TooManyRows: the tile is too large to be read at once.
    """
    mapping = tile.mapping
    found = target.arrow(
        f"SELECT {_outputs(mapping, only)} FROM {quoted(mapping.name)}"
        f" WHERE {_within(mapping, tile.after, tile.part.last)}"
        f" ORDER BY {_key_sql(mapping)} LIMIT {_TILE_ROWS + 1}",
        streamed=True,
    )
    if found.num_rows > _TILE_ROWS:
        raise TooManyRows
    return _plain(found)


def read_tile_keys(target: Target, tile: TileRange) -> pa.Array:
    """The keys of the target's rows of a tile."""
    return _keys(target, tile.mapping, _within(tile.mapping, tile.after, tile.part.last))


def read_keys_beyond(target: Target, mapping: TableMapping, after: Any) -> pa.Array:
    """The keys of the target's rows after the last range."""
    if after is None:
        return _keys(target, mapping, "true")
    return _keys(target, mapping, f"{_key_sql(mapping)} > {_bound(mapping, after)}")


def _keys(target: Target, mapping: TableMapping, where: str) -> pa.Array:
    found = target.arrow(
        f"SELECT {quoted(mapping.key.name)} FROM {quoted(mapping.name)} WHERE {where}"
        f" ORDER BY {_key_sql(mapping)}"
    )
    return _plain(found).column(0)


def _within(mapping: TableMapping, after: Any, last: Any) -> str:
    key = _key_sql(mapping)
    up_to = f"{key} <= {_bound(mapping, last)}"
    return up_to if after is None else f"{key} > {_bound(mapping, after)} AND {up_to}"


def _bound(mapping: TableMapping, key: Any) -> str:
    # A rejected key may exceed the type of the column; bigint compares with all integers.
    is_text = mapping.casts[mapping.key.name].raw == pa.string()
    return value_literal(str(key) if is_text else int(key))


def read_rows(
    target: Target,
    mapping: TableMapping,
    keys: pa.Array,
    *,
    only: Collection[str] | None = None,
) -> pa.RecordBatch:
    """The target's rows with these keys.

    Args:
        only: the columns to read; None for all.
    """
    return _plain(
        target.arrow(
            f"SELECT {_outputs(mapping, only)} FROM {quoted(mapping.name)}"
            f" WHERE {quoted(mapping.key.name)} = ANY($1) ORDER BY {_key_sql(mapping)}",
            (keys.to_pylist(),),
        )
    )


def _plain(table: pa.Table) -> pa.RecordBatch:
    """One batch in which extension types are replaced by their storage types."""
    columns = []
    for column in table.columns:
        # Concatenating a single chunk would copy it.
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        columns.append(array.storage if isinstance(array, pa.ExtensionArray) else array)
    return pa.RecordBatch.from_arrays(columns, names=table.schema.names)
