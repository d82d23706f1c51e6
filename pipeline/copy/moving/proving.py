"""Prove a table by position: both sides are read again, and the digests of each column compared."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.copy.moving import positions
from pipeline.copy.moving.filling import Batch, Rows
from pipeline.copy.moving.findings import RowsDiffer
from pipeline.copy.moving.positions import Tile, TileDigests
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.findings import OFFENDERS, Finding, NotConserved, ValueDiffers
from pipeline.core.progress import Phase, reporter
from pipeline.move.compare import columns, conversions
from pipeline.move.compare.changes import Lost, shown
from pipeline.move.compare.columns import ComparedColumn
from pipeline.move.compare.expected_tiles import ExpectedTile, expect, with_jsonb_spelling
from pipeline.move.context.move_context import counter
from pipeline.postgres.target import Target

_LOG = logging.getLogger(__name__)
_QUERY_BYTES = 16 * 2**20
_QUERY_TILES = 32


@dataclass
class Proven:
    """The comparison of a table.

    Attributes:
        rows: rows of the target.
        values: compared values.
        differences: the first of them; empty if both sides are equal.
        digests: of the target's columns, by name: the hash of the digests of all tiles.
        lossy: conversions that lose something, whose originals wait for ``keep_originals``.
    """

    rows: int = 0
    values: int = 0
    differences: list[Finding] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    lossy: int = 0

    @property
    def equal(self) -> bool:
        """Whether every value is the same."""
        return not self.differences


def compare(
    target: Target,
    rows: Rows,
    place: str,
    *,
    key: str | None = None,
    stop_early: bool = False,
    phase: Phase = "prove",
) -> Proven:
    """Compare a table of the target with the source.

    Args:
        target: a session in a transaction with the settings ``positions.IN_ORDER``.
        place: the table as SQL.
        key: the column that orders the rows, see ``positions.tiles``.
        stop_early: end at the first difference.
        phase: the name of the comparison for those who watch it.
    """
    found, hashes = Proven(), dict[str, "hashlib._Hash"]()
    comparison = _Comparison(target, rows, place, found)
    count = counter(rows.table.label, phase, rows.table.rows, reporter(_LOG))
    tiles = positions.tiles(target, place, rows.counted, key=key)
    with (
        rows.ahead(_expected(rows)) as expected,
        rows.ahead(_stored(target, rows, place, tiles), depth=1) as stored,
    ):
        for tile, digests, (batch, wanted) in zip(tiles, stored, expected, strict=True):
            comparison.tile(tile, batch, wanted, digests)
            for name, digest in digests.digests.items():
                hashes.setdefault(name, hashlib.sha256()).update((digest or "").encode())
            if batch is not None:
                count(batch.converted)
            if stop_early and not found.equal:
                return found
    found.digests = {name: each.hexdigest() for name, each in hashes.items()}
    return found


def keep_originals(target: Target, table: CopiedTable, proven: Proven) -> None:
    """Make the ledger hold the originals of a table's lossy conversions, and no others.

    Each comparison collects its own, so this comes before the comparison of another table.
    """
    if proven.lossy:
        conversions.replace(target, table.mapping)
    else:
        conversions.clear(target, table.label)


def _expected(rows: Rows) -> Iterator[tuple[Batch | None, ExpectedTile | None]]:
    for batch in rows:
        yield batch, expect(rows.table.mapping, batch.converted, ())
    if not rows.table.ranges:
        yield None, None


def _stored(target: Target, rows: Rows, place: str, tiles: Sequence[Tile]) -> Iterator[TileDigests]:
    sizes = [part.bytes for part in rows.table.ranges] or [0]
    group, size = list[Tile](), 0
    for tile, more in zip(tiles, sizes, strict=True):
        if group and (size + more > _QUERY_BYTES or len(group) == _QUERY_TILES):
            yield from positions.read_digests(target, rows.table.mapping, place, group)
            group, size = [], 0
        group.append(tile)
        size += more
    yield from positions.read_digests(target, rows.table.mapping, place, group)


@dataclass
class _Comparison:
    """Compares the tiles of one table and adds what it finds to ``found``."""

    target: Target
    rows: Rows
    place: str
    found: Proven

    def tile(
        self,
        tile: Tile,
        batch: Batch | None,
        expected: ExpectedTile | None,
        stored: TileDigests,
    ) -> None:
        """Compare one tile."""
        count = 0 if batch is None else len(batch.ids)
        self.found.rows += stored.rows
        if stored.rows != count:
            table = self.rows.table
            total = self.target.value(f"SELECT count(*) FROM {self.place}")
            left = len(self.rows.rejected)
            found: Finding = NotConserved(table.label, table.rows, total, left)
            if batch is not None and total == table.rows - left:
                some = f"of the rows {batch.part.first} to {batch.part.last} of the source"
                detail = f"{some}, the target has {stored.rows:,} instead of {count:,}"
                found = RowsDiffer(table.label, detail)
            self.found.differences.append(found)
            return
        if batch is None or expected is None or not count:
            return
        unproven = _unproven(expected, stored)
        if guessed := expected.guessed & unproven:
            expected = with_jsonb_spelling(expected, guessed)
            unproven = _unproven(expected, stored)
        for column in self.rows.table.mapping.columns:
            sides = self._sides(tile, batch, expected, column, proven=column.name not in unproven)
            self.found.values += count
            if sides.differs is not None:
                self.found.differences += _named(self.rows, column.name, batch.ids, sides)
            else:
                self._collect(column.name, batch.ids, sides)

    def _sides(
        self,
        tile: Tile,
        batch: Batch,
        expected: ExpectedTile,
        column: "sa.Column[Any]",
        *,
        proven: bool,
    ) -> ComparedColumn:
        """Both sides of a column; a column that the digests do not prove is read."""
        name, mapping = column.name, self.rows.table.mapping
        converted, form = batch.converted, expected.forms[column.name]
        if proven:
            return columns.equal_column(mapping, name, converted, form, expected.returned[name])
        read = positions.read_column(self.target, mapping, self.place, tile, name)
        sides = columns.compare_column(mapping, name, converted, form, read, None, None)
        if columns.is_json(column):
            return columns.compare_json(self.target, mapping, name, sides, None)
        return sides

    def _collect(self, column: str, ids: pa.Array, sides: ComparedColumn) -> None:
        """Collect the originals of irreversibly converted values, by row id."""
        if sides.lossy is None:
            return
        lossy, table = sides.lossy.fill_null(False), self.rows.table
        if not lossy.true_count:
            return
        if not self.found.lossy:
            conversions.prepare(self.target)
        self.found.lossy += lossy.true_count
        lost = Lost(
            column,
            ids.filter(lossy).cast(pa.string()),
            table.mapping.casts[column].originals(sides.raw.filter(lossy)),
            sides.target.filter(lossy).cast(pa.string()),
        )
        conversions.collect(self.target, table.label, lost)


def _unproven(expected: ExpectedTile, stored: TileDigests) -> set[str]:
    names = {column.name for column in expected.mapping.columns}
    return {
        name
        for name in names
        if name not in expected.digests or expected.digests[name] != stored.digests[name]
    }


def _named(rows: Rows, column: str, ids: pa.Array, sides: ComparedColumn) -> list[Finding]:
    differs = sides.differs
    found = zip(
        ids.filter(differs).slice(0, OFFENDERS).to_pylist(),
        shown(sides.source.filter(differs).slice(0, OFFENDERS)),
        shown(sides.target.filter(differs).slice(0, OFFENDERS)),
        strict=True,
    )
    label = rows.table.label
    return [ValueDiffers(label, f"row {at}", column, here, there) for at, here, there in found]
