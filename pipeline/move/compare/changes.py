"""Compare source and target value by value.

The source is read in ranges of keys. The target is read in tiles that cover all keys between and
beyond these ranges, so no row of the target is missed. BLOBs are hashed where they are stored: the
source's by this process, the target's by its server. If two JSON texts differ, PostgreSQL decides
whether they have the same meaning.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import columns, json_values, tiles
from pipeline.move.compare.digest import ColumnDigest
from pipeline.move.reading.batch_converter import ConvertedBatch, prefetched
from pipeline.move.reading.surveys import Range
from pipeline.postgres.target import Target

_ENDLESS = 2**63 - 2
"""PostgreSQL's infinity, in microseconds; also with a minus sign."""


@dataclass(frozen=True)
class Differing:
    """Different values of one column: keys, and both values in the compared form."""

    column: str
    keys: pa.Array
    source: pa.Array
    target: pa.Array


def shown(values: pa.Array) -> list[Any]:
    """Values for messages; a timestamp outside Python's range becomes a text."""
    try:
        return list(values.to_pylist())
    except OverflowError:
        numbers, texts = values.cast(pa.int64()).to_pylist(), values.cast(pa.string()).to_pylist()
        return [
            text if number is None or abs(number) < _ENDLESS else f"{'-' * (number < 0)}infinity"
            for number, text in zip(numbers, texts, strict=True)
        ]


@dataclass(frozen=True)
class Changes:
    """The differences within one tile.

    Attributes:
        converted: the source rows, None for the tile after the last of them.
        missing: keys that only the source has.
        extra: keys that only the target has.
    """

    converted: ConvertedBatch | None
    missing: pa.Array
    extra: pa.Array
    differing: tuple[Differing, ...] = ()
    lost: tuple["Lost", ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether both sides are equal here."""
        return not (len(self.missing) or len(self.extra) or self.differing)

    def to_write(self, key: str, *, kept: pa.Array | None = None) -> pa.RecordBatch | None:
        """The source rows to write, ready for COPY, without the ``kept`` keys."""
        if self.converted is None or self.nothing:
            return None
        keys = self.converted.batch.column(key)
        wanted = [self.missing, *(d.keys for d in self.differing)]
        picked = pc.is_in(keys, pa.concat_arrays([array.cast(keys.type) for array in wanted]))
        if kept is not None:
            picked = pc.and_(picked, pc.invert(pc.is_in(keys, kept.cast(keys.type))))
        return self.converted.batch.filter(picked)


@dataclass(frozen=True)
class Lost:
    """Irreversibly converted values of one column.

    Attributes:
        originals: the source's values.
        kept: the target's values, as text.
    """

    column: str
    keys: pa.Array
    originals: pa.Array
    kept: pa.Array


@dataclass
class Totals:
    """The totals of a comparison.

    Attributes:
        source: digests of the source by column, for columns with differences only.
        target: digests of the target by column.
    """

    source_rows: int = 0
    target_rows: int = 0
    values: int = 0
    source: dict[str, ColumnDigest] = field(default_factory=dict)
    target: dict[str, ColumnDigest] = field(default_factory=dict)

    def add(self, column: str, source: pa.Array, target: pa.Array, *, equal: bool) -> None:
        """Add a column of one tile; until the first difference, both sides share one digest."""
        self.values += len(target)
        digest = self.target.setdefault(column, ColumnDigest())
        if not equal and column not in self.source:
            self.source[column] = digest.copy()
        digest.update(target)
        if column in self.source:
            self.source[column].update(source)

    def digests(self) -> dict[str, tuple[str, str]]:
        """The digests of source and target, by column."""
        return {
            column: (self.source.get(column, digest).hexdigest(), digest.hexdigest())
            for column, digest in self.target.items()
        }


def compare(
    target: Target,
    mapping: TableMapping,
    ranges: Sequence[Range],
    batches: Iterable[ConvertedBatch],
    totals: Totals,
    *,
    keys_only: Container[Range] = (),
    kept: Sequence[Any] = (),
) -> Iterator[Changes]:
    """Read both sides and return their differences by tile.

    Args:
        target: the session; a separate thread reads tiles.
        ranges: the key ranges of the source's batches.
        batches: the source's rows, one batch per range; a separate thread reads them.
        totals: updated with every tile.
        keys_only: ranges of which only the keys are compared.
        kept: keys of rows that may differ.
    """
    after: Any = None
    if mapping.double_encoded:
        json_values.prepare(target)

    def shape(part: Range) -> TableMapping:
        return mapping.key_mapping if part in keys_only else mapping

    def with_forms() -> Iterator[tuple[ConvertedBatch, dict[str, pa.Array]]]:
        for converted in batches:
            yield (
                converted,
                {
                    name: cast.source_form(converted.batch.column(name))
                    for name, cast in shape(converted.part).casts.items()
                },
            )

    def read_tiles() -> Iterator[pa.RecordBatch | None]:
        last: Any = None
        for part in ranges:
            yield tiles.read_tile(target, shape(part), after=last, part=part)
            last = part.last

    with (
        prefetched(with_forms()) as converted_batches,
        prefetched(read_tiles(), depth=1) as target_tiles,
    ):
        for (converted, forms), tile in zip(converted_batches, target_tiles, strict=True):
            shaped = shape(converted.part)
            yield _compare_tile(target, shaped, converted, forms, tile, after, totals, kept)
            after = converted.part.last
    extra = tiles.read_keys_beyond(target, mapping, after)
    totals.target_rows += len(extra)
    yield Changes(None, pa.array([], extra.type), extra)


def compare_singly(
    target: Target,
    mapping: TableMapping,
    batches: Iterable[ConvertedBatch],
    totals: Totals,
    *,
    scope_keys: Sequence[Any],
    kept: Sequence[Any] = (),
) -> Iterator[Changes]:
    """Compare single rows, which are read from the target by their keys.

    Args:
        totals: updated with every batch.
        scope_keys: keys in scope; those that the target has and no batch has are extra.
        kept: keys of rows that may differ.
    """
    if mapping.double_encoded:
        json_values.prepare(target)
    seen = set[Any]()
    for converted in batches:
        seen.update(converted.batch.column(mapping.key.name).to_pylist())
        forms = {
            name: cast.source_form(converted.batch.column(name))
            for name, cast in mapping.casts.items()
        }
        rows = tiles.read_rows(target, mapping, converted.batch.column(mapping.key.name))
        yield _compare_tile(target, mapping, converted, forms, rows, None, totals, kept)
    keys = pa.array(list(set(scope_keys) - seen), mapping.casts[mapping.key.name].raw)
    extra = tiles.read_rows(target, mapping.key_mapping, keys).column(0)
    totals.target_rows += len(extra)
    yield Changes(None, extra.slice(0, 0), extra)


def _compare_tile(
    target: Target,
    mapping: TableMapping,
    converted: ConvertedBatch,
    forms: dict[str, pa.Array],
    tile: pa.RecordBatch | None,
    after: Any,
    totals: Totals,
    kept: Sequence[Any],
) -> Changes:
    key = mapping.key.name
    totals.source_rows += converted.batch.num_rows
    source_keys = converted.batch.column(key)
    tile, extra = _matched(target, mapping, converted, tile, after)
    totals.target_rows += tile.num_rows + len(extra)
    target_keys = tile.column(key)
    missing = source_keys.slice(0, 0)
    chosen: pa.Array | None = None
    if not target_keys.equals(source_keys):
        chosen = pc.is_in(source_keys, target_keys)
        missing = source_keys.filter(pc.invert(chosen))
    may_differ = pc.is_in(target_keys, pa.array(kept, target_keys.type)) if kept else None
    differing, lost = [], []
    for column in mapping.columns:
        name = column.name
        sides = columns.compare_column(
            mapping, name, converted, forms[name], tile, chosen, may_differ
        )
        if isinstance(column.type, JSONB):
            sides = columns.compare_json(target, mapping, name, sides, may_differ)
        lossy, differs = sides.lossy, sides.differs
        totals.add(name, sides.source, sides.target, equal=differs is None)
        if differs is not None:
            differing.append(
                Differing(
                    name,
                    target_keys.filter(differs),
                    sides.source.filter(differs),
                    sides.target.filter(differs),
                )
            )
        if lossy is not None and differs is not None:
            # Values to be written are collected when they are proven.
            lossy = pc.and_(lossy, pc.invert(differs))
        if lossy is not None and pc.any(lossy).as_py():
            lost.append(
                Lost(
                    name,
                    target_keys.filter(lossy).cast(pa.string()),
                    sides.raw.filter(lossy),
                    sides.target.filter(lossy).cast(pa.string()),
                )
            )
    return Changes(converted, missing, extra, tuple(differing), tuple(lost))


def _matched(
    target: Target,
    mapping: TableMapping,
    converted: ConvertedBatch,
    tile: pa.RecordBatch | None,
    after: Any,
) -> tuple[pa.RecordBatch, pa.Array]:
    """The target's rows whose keys the source has, without repetition, and all other keys."""
    key = mapping.key.name
    source_keys = converted.batch.column(key)
    if tile is None:
        keys = tiles.read_tile_keys(target, mapping, after=after, part=converted.part)
        known = pc.is_in(keys, source_keys)
        extra = keys.filter(pc.invert(known))
        tile, repeated = _without_repeated(
            tiles.read_rows(target, mapping, pc.unique(keys.filter(known))), key
        )
        return tile, pa.concat_arrays([extra, repeated])
    tile, repeated = _without_repeated(tile, key)
    keys = tile.column(key)
    if keys.equals(source_keys):
        return tile, repeated
    known = pc.is_in(keys, source_keys)
    return tile.filter(known), pa.concat_arrays([repeated, keys.filter(pc.invert(known))])


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
