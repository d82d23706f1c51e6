"""Find out which columns of a tile must be read, and read them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.move.compare import tiles
from pipeline.move.compare.expected_tiles import ExpectedTile, with_jsonb_spelling
from pipeline.move.compare.tiles import TileDigests, TileRange
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_QUERY_BYTES = 16 * 2**20
_QUERY_TILES = 32
_KEY_BYTES = 16
_LIMIT_EXCEEDED = "54"
"""The class of SQLSTATEs for what is too large for the server."""


class Read(Protocol):
    """Reads the target's rows: the given columns, or all."""

    def __call__(self, *, only: Collection[str] | None = None) -> pa.RecordBatch:
        """Rows in the order of their keys."""


@dataclass(frozen=True)
class Tile:
    """One tile of both sides.

    Attributes:
        rows: the target's rows whose keys the source has, each key once; proven columns except the
            key are left out.
        extra: the keys of all other rows of the target.
        proven: columns whose digests are equal; then both sides have the same keys.
    """

    expected: ExpectedTile
    rows: pa.RecordBatch
    extra: pa.Array
    proven: frozenset[str] = frozenset()


def read(expected: ExpectedTile, stored: TileDigests, read_rows: Read) -> Tile:
    """Read what the digests do not prove."""
    key, source_keys, proven = expected.mapping.key.name, expected.keys, _proven(expected, stored)
    if key not in proven:
        return read_all(expected, read_rows)
    if wrong := expected.guessed - proven:
        expected = with_jsonb_spelling(expected, wrong)
        proven = _proven(expected, stored)
    unproven = {column.name for column in expected.mapping.columns} - proven
    rows = pa.RecordBatch.from_arrays([source_keys], [key])
    if unproven:
        rows = read_rows(only={key, *unproven})
        if not rows.column(key).equals(source_keys):
            # Another session has changed the table since.
            return read_all(expected, read_rows)
    return Tile(expected, rows, source_keys.slice(0, 0), proven)


def read_all(expected: ExpectedTile, read_rows: Read) -> Tile:
    """Read all rows and columns."""
    key, source_keys = expected.mapping.key.name, expected.keys
    rows, repeated = _without_repeated(read_rows(), key)
    keys = rows.column(key)
    if keys.equals(source_keys):
        return Tile(expected, rows, repeated)
    known = pc.is_in(keys, source_keys)
    extra = pa.concat_arrays([repeated, keys.filter(pc.invert(known))])
    return Tile(expected, rows.filter(known), extra)


def _proven(expected: ExpectedTile, stored: TileDigests) -> frozenset[str]:
    rows = expected.converted.batch.num_rows
    if stored.rows != rows:
        return frozenset()
    if not rows:
        return frozenset(expected.digests)
    return frozenset(
        name for name, digest in expected.digests.items() if digest == stored.digests[name]
    )


@dataclass
class TileReader:
    """Reads the tiles of a table.

    Attributes:
        keys_beyond: whether there may be keys after the last tile.
    """

    target: Target
    plan: Sequence[TileRange]
    keys_beyond: bool = True

    def tiles(self, expected: Iterator[ExpectedTile]) -> Iterator[Tile]:
        """All tiles.

        Args:
            expected: the source's rows of each.
        """
        start = 0
        for group in _groups(self.plan):
            start += len(group)
            stored, self.keys_beyond = self._digests(group, beyond=start == len(self.plan))
            for at, digests in zip(group, stored, strict=True):
                yield self._tile(next(expected), at, digests)

    def _digests(
        self, group: Sequence[TileRange], *, beyond: bool
    ) -> tuple[list[TileDigests | None], bool]:
        try:
            with self.target.savepoint():
                found, more = tiles.read_digests(self.target, group, beyond=beyond)
                return list(found), more
        except DataFault as fault:
            if not fault.sqlstate.startswith(_LIMIT_EXCEEDED):
                raise
            # The target's values are too large to be hashed together, unlike the source's.
            return [None] * len(group), True

    def _tile(self, expected: ExpectedTile, at: TileRange, stored: TileDigests | None) -> Tile:
        try:
            if stored is None:
                return read_all(expected, partial(tiles.read_tile, self.target, at))
            return read(expected, stored, partial(tiles.read_tile, self.target, at))
        except tiles.TooManyRows:
            keys = tiles.read_tile_keys(self.target, at)
            known = pc.is_in(keys, expected.keys)
            some = pc.unique(keys.filter(known))
            tile = read_all(expected, partial(tiles.read_rows, self.target, at.mapping, some))
            extra = pa.concat_arrays([keys.filter(pc.invert(known)), tile.extra])
            return replace(tile, extra=extra)


def _groups(plan: Sequence[TileRange]) -> Iterator[list[TileRange]]:
    """Tiles whose digests are asked for at once: few, so that reading and hashing overlap."""
    group, size = list[TileRange](), 0
    for tile in plan:
        only_key = len(tile.mapping.columns) == 1
        more = tile.part.rows * _KEY_BYTES if only_key else tile.part.bytes
        if group and (size + more > _QUERY_BYTES or len(group) == _QUERY_TILES):
            yield group
            group, size = [], 0
        group.append(tile)
        size += more
    if group:
        yield group


def _without_repeated(rows: pa.RecordBatch, key: str) -> tuple[pa.RecordBatch, pa.Array]:
    """Rows with distinct keys, and the keys of repeated rows, which need a missing primary key."""
    keys = rows.column(key)
    if len(keys) < 2:
        return rows, keys.slice(0, 0)
    again = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    if not pc.any(again).as_py():
        return rows, keys.slice(0, 0)
    first = pa.concat_arrays([pa.array([True]), pc.invert(again)])
    return rows.filter(first), keys.filter(pc.invert(first))
