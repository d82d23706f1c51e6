"""Compare single columns of the rows that both sides have; JSON is compared by meaning."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.mapping.casts.json_texts import repeats_a_name, strings
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import json_values
from pipeline.move.reading.batch_converter import ConvertedBatch
from pipeline.postgres.target import Target


def is_json(column: sa.Column[Any]) -> bool:
    """Whether the values of a column are compared by meaning."""
    return isinstance(column.type, JSONB)


def _unequal(source: pa.Array, target: pa.Array) -> pa.Array | None:
    """The mask of differences of two columns, if any; NULL only equals NULL."""
    if source.equals(target):
        return None
    one_null = pc.xor(source.is_null(), target.is_null())
    differs = pc.or_(one_null, pc.fill_null(pc.not_equal(source, target), False))
    return differs if pc.any(differs).as_py() else None


@dataclass(frozen=True)
class ComparedColumn:
    """One column of the rows that both sides have.

    Attributes:
        source: the source's values, in the compared form.
        target: the target's values, in the compared form.
        raw: the source's values from SQLite.
        lossy: mask of irreversibly converted values, if any.
        differs: mask of different values, if any.
    """

    source: pa.Array
    target: pa.Array
    raw: pa.Array
    lossy: pa.Array | None
    differs: pa.Array | None


def compare_column(
    mapping: TableMapping,
    name: str,
    converted: ConvertedBatch,
    source: pa.Array,
    rows: pa.RecordBatch,
    chosen: pa.Array | None,
    may_differ: pa.Array | None,
) -> ComparedColumn:
    """Compare one column of the rows that both sides have.

    Args:
        converted: the source's rows, with masks of lossy values.
        source: the source's values, in the compared form.
        rows: the target's rows.
        chosen: mask of the source's rows that the target has, None for all.
        may_differ: mask of the target's rows that may differ, None for none.
    """
    raw, lossy = converted.raw.column(name), converted.lossy.get(name)
    target = mapping.casts[name].target_form(rows.column(name))
    if target.type != source.type and pa.types.is_decimal(source.type):
        source = source.cast(target.type)
    if chosen is not None:
        source, raw = source.filter(chosen), raw.filter(chosen)
        lossy = None if lossy is None else lossy.filter(chosen)
    if may_differ is not None:
        source = pc.if_else(may_differ, target, source)
        lossy = None if lossy is None else pc.and_(lossy, pc.invert(may_differ))
    return ComparedColumn(source, target, raw, lossy, _unequal(source, target))


def equal_column(
    mapping: TableMapping,
    name: str,
    converted: ConvertedBatch,
    source: pa.Array,
    target: pa.Array,
) -> ComparedColumn:
    """A column that is equal, because its digests are.

    Args:
        converted: the source's rows, with masks of lossy values.
        source: the source's values, in the compared form.
        target: the target's values, which were not read.
    """
    raw, lossy = converted.raw.column(name), converted.lossy.get(name)
    if source is not target:
        wrapped = wrapped_strings(mapping, name, raw)
        sides = ComparedColumn(source, target, raw, lossy, _unequal(source, target))
        lossy = _json_losses(sides, wrapped)
    return ComparedColumn(target, target, raw, lossy, None)


def wrapped_strings(
    mapping: TableMapping, name: str, raw: pa.Array, may_differ: pa.Array | None = None
) -> pa.Array | None:
    """The mask of strings that may contain JSON, if there are any and they are unwrapped."""
    if name not in mapping.double_encoded:
        return None
    wrapped = strings(raw)
    if may_differ is not None:
        wrapped = pc.and_(wrapped, pc.invert(may_differ))
    return wrapped if pc.any(wrapped).as_py() else None


def compare_json(
    session: Target,
    mapping: TableMapping,
    name: str,
    sides: ComparedColumn,
    may_differ: pa.Array | None,
) -> ComparedColumn:
    """A column of JSON, compared by meaning as in PostgreSQL's jsonb."""
    source, target, selected = sides.source, sides.target, sides.differs
    values, double_encoded = source, name in mapping.double_encoded
    wrapped = wrapped_strings(mapping, name, sides.raw, may_differ)
    if wrapped is not None:
        # The proof uses the value of the source, not the result of the cast.
        values = pc.if_else(wrapped, sides.raw, source)
        selected = wrapped if selected is None else pc.or_(selected, wrapped)
    if selected is None:
        return sides
    differing = json_values.unequal(
        session, values, target, selected, double_encoded=double_encoded
    )
    if double_encoded and mapping.policies.double_encoded_json == "either":
        differing = pc.and_(differing, json_values.unequal(session, values, target, selected))
    lossy = _json_losses(sides, wrapped)
    differs = differing if pc.any(differing).as_py() else None
    return ComparedColumn(pc.if_else(differing, source, target), target, sides.raw, lossy, differs)


def _json_losses(sides: ComparedColumn, wrapped: pa.Array | None) -> pa.Array | None:
    """The mask of losses of a column of JSON, if any."""
    lossy = sides.lossy
    if wrapped is not None:
        lossy = _unwrapped(wrapped, sides.target, lossy)
    if sides.differs is None:
        return lossy
    repeated = _json_lossy(sides.source, sides.target, sides.differs)
    if repeated is None:
        return lossy
    return repeated if lossy is None else pc.or_(lossy, repeated)


def _unwrapped(wrapped: pa.Array, target: pa.Array, lossy: pa.Array | None) -> pa.Array:
    """The mask of losses, including strings of the source that are no strings in the target."""
    inside = pc.and_(wrapped, pc.invert(strings(target)))
    if lossy is None:
        return inside
    return pc.or_(pc.and_(pc.fill_null(lossy, False), pc.invert(wrapped)), inside)


def _json_lossy(source: pa.Array, target: pa.Array, differs: pa.Array) -> pa.Array | None:
    r"""The mask of texts in which jsonb dropped a member with a repeated name, if any.

    Such a text has fewer quotation marks in the target, literally or as \\u0022; only these texts
    are parsed.
    """
    escaped = pc.count_substring(source, "\\u0022")
    marks = pc.add(pc.count_substring(source, '"'), escaped)
    fewer = pc.greater(marks, pc.count_substring(target, '"'))
    suspects = pc.fill_null(pc.and_(differs, fewer), False)
    if not pc.any(suspects).as_py():
        return None
    positions = np.flatnonzero(suspects.to_numpy(zero_copy_only=False)).tolist()
    lossy = np.zeros(len(source), dtype=bool)
    lossy[[i for i in positions if repeats_a_name(source[i].as_py())]] = True
    return pa.array(lossy)
