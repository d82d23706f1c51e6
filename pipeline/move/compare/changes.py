"""What differs between source and target, found by reading both sides value by value.

The source arrives in ranges of keys; the target is read in tiles that cover all keys between and
beyond them, so a row that only the target has cannot hide. BLOBs are hashed where they lie: the
source's by this process, the target's by its server. JSON texts that are not the same letter by
letter are handed to PostgreSQL, which knows when two of them mean the same.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.quoting import quoted
from pipeline.mapping.json_texts import repeats_a_name, strings
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import json_values
from pipeline.move.compare.digest import ColumnDigest
from pipeline.move.reading.batch_converter import ConvertedBatch, ahead
from pipeline.move.reading.extract import BATCH_ROWS, Range
from pipeline.postgres.target import Target

_TILE_ROWS = 2 * BATCH_ROWS
_ENDLESS = 2**63 - 2
"""From this number of microseconds on, either way, PostgreSQL means infinity."""


@dataclass(frozen=True)
class Differing:
    """Values of one column that differ: keys and both values as they are compared."""

    column: str
    keys: pa.Array
    source: pa.Array
    target: pa.Array


def shown(values: pa.Array) -> list[Any]:
    """Values for people; a moment that Python has no date for is a text."""
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
    """What differs within one tile.

    Attributes:
        converted: the source rows, None for the tile behind the last of them.
        missing: keys that only the source has.
        extra: keys that only the target has.
        differing: values that are not the same, by column.
        lost: values whose conversion cannot be undone, by column.
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
        """The source rows that the target needs, as COPY takes them; kept keys are left out."""
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
    """Values that were changed in a way that cannot be undone.

    Attributes:
        column: their column.
        keys: the rows' keys.
        originals: the source's values.
        kept: the target's values, as text.
    """

    column: str
    keys: pa.Array
    originals: pa.Array
    kept: pa.Array


@dataclass
class Totals:
    """What a whole comparison has seen.

    Attributes:
        source_rows: rows read from the source.
        target_rows: rows read from the target.
        values: values that were compared.
        source: digest per column of what was read from the source, once it was not equal.
        target: digest per column of what was read from the target.
    """

    source_rows: int = 0
    target_rows: int = 0
    values: int = 0
    source: dict[str, ColumnDigest] = field(default_factory=dict)
    target: dict[str, ColumnDigest] = field(default_factory=dict)

    def add(self, column: str, source: pa.Array, target: pa.Array, *, equal: bool) -> None:
        """Digest a column of one tile; as long as all was equal, one digest speaks for both."""
        self.values += len(target)
        theirs = self.target.setdefault(column, ColumnDigest())
        if not equal and column not in self.source:
            self.source[column] = theirs.copy()
        theirs.update(target)
        if column in self.source:
            self.source[column].update(source)

    def digests(self) -> dict[str, tuple[str, str]]:
        """Both sides' digests, by column."""
        return {
            column: (self.source.get(column, theirs).hexdigest(), theirs.hexdigest())
            for column, theirs in self.target.items()
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
    """Read both sides and tell, tile by tile, what differs; totals grow along the way.

    Args:
        target: the session; tiles are read by a thread of their own.
        mapping: the table.
        ranges: where the source's batches begin and end.
        batches: the source's rows, one batch per range; another thread asks for them.
        totals: what was seen so far.
        keys_only: ranges of which only the keys are compared.
        kept: keys of rows that may differ.
    """
    after: Any = None
    if mapping.double_encoded:
        json_values.prepare(target)

    def shape(part: Range) -> TableMapping:
        return mapping.of_keys if part in keys_only else mapping

    def with_forms() -> Iterator[tuple[ConvertedBatch, dict[str, pa.Array]]]:
        for converted in batches:
            yield (
                converted,
                {
                    name: cast.source_form(converted.batch.column(name))
                    for name, cast in shape(converted.part).casts.items()
                },
            )

    def tiles() -> Iterator[pa.RecordBatch | None]:
        last: Any = None
        for part in ranges:
            yield _tile(target, shape(part), after=last, part=part)
            last = part.last

    with ahead(with_forms()) as ours, ahead(tiles(), depth=1) as theirs:
        for (converted, forms), tile in zip(ours, theirs, strict=True):
            seen = shape(converted.part)
            yield _compare_tile(target, seen, converted, forms, tile, after, totals, kept)
            after = converted.part.last
    extra = _keys_beyond(target, mapping, after)
    totals.target_rows += len(extra)
    yield Changes(None, pa.array([], extra.type), extra)


def compare_singly(
    target: Target,
    mapping: TableMapping,
    batches: Iterable[ConvertedBatch],
    totals: Totals,
    *,
    among: Sequence[Any],
    kept: Sequence[Any] = (),
) -> Iterator[Changes]:
    """The same for rows of which each is looked up by its key; what lies between is not read.

    Args:
        target: the session.
        mapping: the table.
        batches: the source's rows.
        totals: what was seen so far.
        among: of these keys, those that the target has and no batch had are extra.
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
        theirs = _rows_with(target, mapping, converted.batch.column(mapping.key.name))
        yield _compare_tile(target, mapping, converted, forms, theirs, None, totals, kept)
    keys = pa.array(list(set(among) - seen), mapping.casts[mapping.key.name].raw)
    extra = _rows_with(target, mapping.of_keys, keys).column(0)
    totals.target_rows += len(extra)
    yield Changes(None, extra.slice(0, 0), extra)


def _compare_tile(
    target: Target,
    mapping: TableMapping,
    converted: ConvertedBatch,
    forms: dict[str, pa.Array],
    theirs: pa.RecordBatch | None,
    after: Any,
    totals: Totals,
    kept: Sequence[Any],
) -> Changes:
    key = mapping.key.name
    ours = converted.batch
    totals.source_rows += ours.num_rows
    our_keys = ours.column(key)
    theirs, extra = _matched(target, mapping, converted, theirs, after)
    totals.target_rows += theirs.num_rows + len(extra)
    their_keys = theirs.column(key)
    missing = our_keys.slice(0, 0)
    chosen: pa.Array | None = None
    if not their_keys.equals(our_keys):
        chosen = pc.is_in(our_keys, their_keys)
        missing = our_keys.filter(pc.invert(chosen))
    may_differ = pc.is_in(their_keys, pa.array(kept, their_keys.type)) if kept else None
    differing, lost = [], []
    for column in mapping.columns:
        name = column.name
        sides = _sides(mapping, name, converted, forms[name], theirs, chosen, may_differ)
        if isinstance(column.type, JSONB):
            sides = _in_meaning(target, mapping, name, sides, may_differ)
        source, there, lossy, differs = sides.source, sides.there, sides.lossy, sides.differs
        totals.add(name, source, there, equal=differs is None)
        if differs is not None:
            differing.append(
                Differing(
                    name, their_keys.filter(differs), source.filter(differs), there.filter(differs)
                )
            )
        if lossy is not None and differs is not None:
            # What is about to be written is collected when it is proven.
            lossy = pc.and_(lossy, pc.invert(differs))
        if lossy is not None and pc.any(lossy).as_py():
            lost.append(
                Lost(
                    name,
                    their_keys.filter(lossy).cast(pa.string()),
                    sides.raw.filter(lossy),
                    there.filter(lossy).cast(pa.string()),
                )
            )
    return Changes(converted, missing, extra, tuple(differing), tuple(lost))


def _matched(
    target: Target,
    mapping: TableMapping,
    converted: ConvertedBatch,
    theirs: pa.RecordBatch | None,
    after: Any,
) -> tuple[pa.RecordBatch, pa.Array]:
    """The target's rows whose keys the source has, each once, and the keys of all further rows."""
    key = mapping.key.name
    our_keys = converted.batch.column(key)
    if theirs is None:
        keys = _tile_keys(target, mapping, after=after, part=converted.part)
        known = pc.is_in(keys, our_keys)
        extra = keys.filter(pc.invert(known))
        theirs, repeated = _without_repeated(
            _rows_with(target, mapping, pc.unique(keys.filter(known))), key
        )
        return theirs, pa.concat_arrays([extra, repeated])
    theirs, repeated = _without_repeated(theirs, key)
    keys = theirs.column(key)
    if keys.equals(our_keys):
        return theirs, repeated
    known = pc.is_in(keys, our_keys)
    return theirs.filter(known), pa.concat_arrays([repeated, keys.filter(pc.invert(known))])


def _without_repeated(theirs: pa.RecordBatch, key: str) -> tuple[pa.RecordBatch, pa.Array]:
    """Rows with keys of their own, and the keys of further rows; a lost key lets them in."""
    keys = theirs.column(key)
    if len(keys) < 2:
        return theirs, keys.slice(0, 0)
    again = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    if not pc.any(again).as_py():
        return theirs, keys.slice(0, 0)
    first = pa.concat_arrays([pa.array([True]), pc.invert(again)])
    return theirs.filter(first), keys.filter(pc.invert(first))


def _outputs(mapping: TableMapping) -> str:
    return ", ".join(
        f"{mapping.casts[c.name].target(quoted(c.name))} AS {quoted(c.name)}"
        for c in mapping.columns
    )


def _key_sql(mapping: TableMapping) -> str:
    text = mapping.casts[mapping.key.name].raw == pa.string()
    return quoted(mapping.key.name) + (' COLLATE "C"' if text else "")


def _tile(
    target: Target, mapping: TableMapping, *, after: Any, part: Range
) -> pa.RecordBatch | None:
    """The target's rows up to the end of a range; None when there are far more than ours."""
    with target.bounds(after, part.last):
        found = target.arrow(
            f"SELECT {_outputs(mapping)} FROM {quoted(mapping.name)}"
            f" WHERE {_within(mapping, after)} ORDER BY {_key_sql(mapping)} LIMIT {_TILE_ROWS + 1}"
        )
    return None if found.num_rows > _TILE_ROWS else _plain(found)


def _tile_keys(target: Target, mapping: TableMapping, *, after: Any, part: Range) -> pa.Array:
    with target.bounds(after, part.last):
        return _keys(target, mapping, _within(mapping, after))


def _keys_beyond(target: Target, mapping: TableMapping, after: Any) -> pa.Array:
    if after is None:
        return _keys(target, mapping, "true")
    with target.bounds(after, after):
        return _keys(target, mapping, f"{_key_sql(mapping)} > {_bound(mapping, 'low')}")


def _keys(target: Target, mapping: TableMapping, where: str) -> pa.Array:
    found = target.arrow(
        f"SELECT {quoted(mapping.key.name)} FROM {quoted(mapping.name)} WHERE {where}"
        f" ORDER BY {_key_sql(mapping)}"
    )
    return _plain(found).column(0)


def _within(mapping: TableMapping, after: Any) -> str:
    key = _key_sql(mapping)
    up_to = f"{key} <= {_bound(mapping, 'high')}"
    return up_to if after is None else f"{key} > {_bound(mapping, 'low')} AND {up_to}"


def _bound(mapping: TableMapping, end: str) -> str:
    # A rejected key may be larger than the column's own type; bigint compares with all of them.
    is_text = mapping.casts[mapping.key.name].raw == pa.string()
    return f"current_setting('pipeline.{end}')::{'text' if is_text else 'bigint'}"


def _rows_with(target: Target, mapping: TableMapping, keys: pa.Array) -> pa.RecordBatch:
    if not len(keys):
        # The driver takes a list of nothing for texts.
        return _plain(
            target.arrow(f"SELECT {_outputs(mapping)} FROM {quoted(mapping.name)} LIMIT 0")
        )
    return _plain(
        target.arrow(
            f"SELECT {_outputs(mapping)} FROM {quoted(mapping.name)}"
            f" WHERE {quoted(mapping.key.name)} = ANY($1) ORDER BY {_key_sql(mapping)}",
            (keys.to_pylist(),),
        )
    )


def _plain(table: pa.Table) -> pa.RecordBatch:
    """One batch of plain types: extension types are replaced by what they store."""
    columns = []
    for column in table.columns:
        # Concatenating a single chunk would copy it.
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        columns.append(array.storage if isinstance(array, pa.ExtensionArray) else array)
    return pa.RecordBatch.from_arrays(columns, names=table.schema.names)


def _unequal(source: pa.Array, target: pa.Array) -> pa.Array | None:
    """Where two columns differ, None for nowhere; NULL equals NULL and nothing else."""
    if source.equals(target):
        return None
    one_null = pc.xor(source.is_null(), target.is_null())
    differs = pc.or_(one_null, pc.fill_null(pc.not_equal(source, target), False))
    return differs if pc.any(differs).as_py() else None


@dataclass(frozen=True)
class _Sides:
    """One column of the rows that both sides have.

    Attributes:
        source: the source's values, in the form in which both sides are compared.
        there: the target's.
        raw: the source's values as SQLite gave them.
        lossy: where a value lost something; None for nowhere, and so is the next one.
        differs: where the two are not the same.
    """

    source: pa.Array
    there: pa.Array
    raw: pa.Array
    lossy: pa.Array | None
    differs: pa.Array | None


def _sides(
    mapping: TableMapping,
    name: str,
    converted: ConvertedBatch,
    source: pa.Array,
    theirs: pa.RecordBatch,
    chosen: pa.Array | None,
    may_differ: pa.Array | None,
) -> _Sides:
    raw, lossy = converted.raw.column(name), converted.lossy.get(name)
    there = mapping.casts[name].target_form(theirs.column(name))
    if chosen is not None:
        source, raw = source.filter(chosen), raw.filter(chosen)
        lossy = None if lossy is None else lossy.filter(chosen)
    if may_differ is not None:
        source = pc.if_else(may_differ, there, source)
        lossy = None if lossy is None else pc.and_(lossy, pc.invert(may_differ))
    return _Sides(source, there, raw, lossy, _unequal(source, there))


def _in_meaning(
    target: Target, mapping: TableMapping, name: str, sides: _Sides, may_differ: pa.Array | None
) -> _Sides:
    """A column of JSON, compared as PostgreSQL's jsonb sees it."""
    source, there, lossy, asked = sides.source, sides.there, sides.lossy, sides.differs
    judged, double_encoded = source, name in mapping.double_encoded
    if double_encoded:
        wrapped = strings(sides.raw)
        if may_differ is not None:
            wrapped = pc.and_(wrapped, pc.invert(may_differ))
        if pc.any(wrapped).as_py():
            # The proof goes by what the source has, not by what the cast made of it.
            judged = pc.if_else(wrapped, sides.raw, source)
            asked = wrapped if asked is None else pc.or_(asked, wrapped)
            lossy = _unwrapped(wrapped, there, lossy)
    if asked is None:
        return sides
    really = json_values.unequal(target, judged, there, asked, double_encoded=double_encoded)
    if double_encoded and mapping.policies.double_encoded_json == "either":
        really = pc.and_(really, json_values.unequal(target, judged, there, asked))
    repeated = None if sides.differs is None else _json_lossy(source, there, sides.differs)
    if repeated is not None:
        lossy = repeated if lossy is None else pc.or_(lossy, repeated)
    differs = really if pc.any(really).as_py() else None
    return _Sides(pc.if_else(really, source, there), there, sides.raw, lossy, differs)


def _unwrapped(wrapped: pa.Array, there: pa.Array, lossy: pa.Array | None) -> pa.Array:
    """Where something was lost: also where a string of the source is no string in the target."""
    inside = pc.and_(wrapped, pc.invert(strings(there)))
    if lossy is None:
        return inside
    return pc.or_(pc.and_(pc.fill_null(lossy, False), pc.invert(wrapped)), inside)


def _json_lossy(source: pa.Array, there: pa.Array, differs: pa.Array) -> pa.Array | None:
    r"""Where jsonb dropped a member because its name occurred twice.

    Fewer quotation marks than the source had, written out or as \\u0022, are the sign; only those
    texts are parsed.
    """
    escaped = pc.count_substring(source, "\\u0022")
    marks = pc.add(pc.count_substring(source, '"'), escaped)
    fewer = pc.greater(marks, pc.count_substring(there, '"'))
    suspects = pc.fill_null(pc.and_(differs, fewer), False)
    if not pc.any(suspects).as_py():
        return None
    at = np.flatnonzero(suspects.to_numpy(zero_copy_only=False)).tolist()
    lossy = np.zeros(len(source), dtype=bool)
    lossy[[i for i in at if repeats_a_name(source[i].as_py())]] = True
    return pa.array(lossy)
