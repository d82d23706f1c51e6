"""Compare source and target value by value.

The source is read in ranges of keys. The target is divided into tiles that cover all keys between
and beyond these ranges, so no row of the target is missed. The server hashes the columns of each
tile, and this process those of the source's range. Equal digests prove a column equal; only the
other columns are read and compared. BLOBs are hashed in any case. If two JSON texts differ,
PostgreSQL decides whether they have the same meaning.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.mapping.casts.cast import Cast
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import columns, tile_reader, tiles
from pipeline.move.compare.changes import Changes, Differing, Lost, Totals
from pipeline.move.compare.columns import ComparedColumn
from pipeline.move.compare.expected_tiles import ExpectedTile, expect, without_digests
from pipeline.move.compare.tile_reader import Tile, TileReader
from pipeline.move.compare.tiles import TileRange
from pipeline.move.reading.batch_converter import ConvertedBatch, read_ahead
from pipeline.move.reading.surveys import Range
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class AllRows:
    """Compare all rows of a table.

    Attributes:
        keys_only: ranges of which only the keys are compared.
    """

    keys_only: Container[Range] = ()


ALL_ROWS = AllRows()


@dataclass(frozen=True)
class RowsByKey:
    """Compare single rows, which the target finds by their keys.

    Attributes:
        keys: keys in scope; those that the target has and the source has not are extra.
        changed: most rows differ, so they are read without asking for digests first.
    """

    keys: Sequence[Any]
    changed: bool = False


def compare(
    target: Target,
    mapping: TableMapping,
    ranges: Sequence[Range],
    batches: Iterable[ConvertedBatch],
    totals: Totals,
    *,
    scope: AllRows | RowsByKey,
    kept: Sequence[Any] = (),
) -> Iterator[Changes]:
    """Compare both sides and return their differences by tile.

    Args:
        target: the session; for all rows, a separate thread asks for digests and reads tiles.
        ranges: the key ranges of the source's batches.
        batches: the source's rows, one batch per range; for all rows, a separate thread reads and
            hashes them.
        totals: updated with every tile.
        kept: keys of rows that may differ.
    """
    if isinstance(scope, RowsByKey):
        tiles_ = _tiles_by_key(target, mapping, batches, scope, kept)
    else:
        tiles_ = _all_tiles(target, mapping, ranges, batches, scope, kept)
    for tile in tiles_:
        if isinstance(tile, Tile):
            yield _compare_tile(target, tile, totals, kept)
        else:
            totals.target_rows += len(tile)
            yield Changes(None, tile.slice(0, 0), tile)


def _all_tiles(
    target: Target,
    mapping: TableMapping,
    ranges: Sequence[Range],
    batches: Iterable[ConvertedBatch],
    scope: AllRows,
    kept: Sequence[Any],
) -> Iterator[Tile | pa.Array]:
    """The tiles of all ranges, and the keys beyond."""
    lasts = [None, *(part.last for part in ranges)]
    plan = [
        TileRange(mapping.key_mapping if part in scope.keys_only else mapping, after, part)
        for after, part in zip(lasts, ranges, strict=False)
    ]

    def from_source() -> Iterator[ExpectedTile]:
        for tile, converted in zip(plan, batches, strict=True):
            yield expect(tile.mapping, converted, kept)

    reader = TileReader(target, plan)
    with (
        read_ahead(from_source()) as expected,
        read_ahead(reader.tiles(expected), depth=1) as found,
    ):
        yield from found
    if reader.keys_beyond:
        yield tiles.read_keys_beyond(target, mapping, lasts[-1])


def _tiles_by_key(
    target: Target,
    mapping: TableMapping,
    batches: Iterable[ConvertedBatch],
    scope: RowsByKey,
    kept: Sequence[Any],
) -> Iterator[Tile | pa.Array]:
    """The tiles of all batches, and the keys in scope that no batch has."""
    seen = set[Any]()
    for converted in batches:
        keys = converted.batch.column(mapping.key.name)
        seen.update(keys.to_pylist())
        read_rows = partial(tiles.read_rows, target, mapping, keys)
        if scope.changed or not len(keys):
            yield tile_reader.read_all(without_digests(mapping, converted), read_rows)
        else:
            stored = tiles.read_digests_of_rows(target, mapping, keys)
            yield tile_reader.read(expect(mapping, converted, kept), stored, read_rows)
    unseen = pa.array(list(set(scope.keys) - seen), mapping.casts[mapping.key.name].raw)
    if len(unseen):
        yield tiles.read_rows(target, mapping.key_mapping, unseen).column(0)


def _compare_tile(target: Target, tile: Tile, totals: Totals, kept: Sequence[Any]) -> Changes:
    expected, rows, extra = tile.expected, tile.rows, tile.extra
    mapping, converted, source_keys = expected.mapping, expected.converted, expected.keys
    totals.source_rows += converted.batch.num_rows
    totals.target_rows += rows.num_rows + len(extra)
    target_keys = rows.column(mapping.key.name)
    missing = source_keys.slice(0, 0)
    chosen: pa.Array | None = None
    if not target_keys.equals(source_keys):
        chosen = pc.is_in(source_keys, target_keys)
        missing = source_keys.filter(pc.invert(chosen))
    may_differ = pc.is_in(target_keys, pa.array(kept, target_keys.type)) if kept else None
    differing, lost = [], []
    for column in mapping.columns:
        name, is_json = column.name, isinstance(column.type, JSONB)
        if name in tile.proven:
            sides = columns.equal_column(
                mapping, name, expected.converted, expected.forms[name], expected.returned[name]
            )
        else:
            sides = columns.compare_column(
                mapping, name, converted, expected.forms[name], rows, chosen, may_differ
            )
            if is_json:
                sides = columns.compare_json(target, mapping, name, sides, may_differ)
        totals.add(name, sides.source, sides.target, equal=sides.differs is None)
        if sides.differs is not None:
            differing.append(_differing(name, target_keys, sides))
        found = _lost(name, target_keys, sides, mapping.casts[name])
        if found is not None:
            lost.append(found)
    return Changes(converted, missing, extra, tuple(differing), tuple(lost))


def _differing(column: str, keys: pa.Array, sides: ComparedColumn) -> Differing:
    differs = sides.differs
    return Differing(
        column, keys.filter(differs), sides.source.filter(differs), sides.target.filter(differs)
    )


def _lost(column: str, keys: pa.Array, sides: ComparedColumn, cast: Cast) -> Lost | None:
    lossy = sides.lossy
    if lossy is not None and sides.differs is not None:
        # Values to be written are collected when they are proven.
        lossy = pc.and_(lossy, pc.invert(sides.differs))
    if lossy is None or not pc.any(lossy).as_py():
        return None
    return Lost(
        column,
        keys.filter(lossy).cast(pa.string()),
        cast.originals(sides.raw.filter(lossy)),
        sides.target.filter(lossy).cast(pa.string()),
    )
