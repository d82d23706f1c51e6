"""Digests of the engine's Arrow columns, after its casts, in the format of ``stored.py``."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.move.witness.parts import Key, KeySet, Part

_EPOCH_DAYS, _EPOCH_MICROSECONDS = 10_957, 946_684_800_000_000
"""2000-01-01, counted from 1970; PostgreSQL counts from there."""


class Digest:
    """The digest of a column over one part, fed with batches in the order of the keys."""

    def __init__(self) -> None:
        """Start without rows."""
        self._lengths = hashlib.md5(usedforsecurity=False)
        self._values = hashlib.md5(usedforsecurity=False)

    def add(self, lengths: Any, values: Any) -> None:
        """Add lengths (int32, -1 for NULL) and the values' bytes without gaps."""
        self._lengths.update(lengths.astype(">i4").tobytes())
        self._values.update(values)

    def hexdigest(self) -> str:
        """The digest of all values."""
        return self._lengths.hexdigest() + self._values.hexdigest()


@dataclass
class ColumnDigests:
    """Digests of the parts of one table, computed from the written batches.

    JSON columns are left out, because only PostgreSQL knows the text form of jsonb.

    Attributes:
        kept: keys of rows to leave out.
        rows: number of hashed rows, by part.
    """

    key: str
    parts: Sequence[Part]
    kept: Sequence[Any] = ()
    rows: list[int] = field(init=False)
    digests: list[dict[str, Digest]] = field(init=False)

    def __post_init__(self) -> None:
        """Start without rows."""
        self.rows = [0] * len(self.parts)
        self.digests = [{} for _ in self.parts]

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch that belong to a part; batches are in the order of the keys."""
        for at, part in enumerate(self.parts):
            chosen = _inside(batch, self.key, part)
            if self.kept and chosen.num_rows:
                chosen = chosen.filter(pc.invert(_among(chosen.column(self.key), self.kept)))
            self.rows[at] += chosen.num_rows
            for name, column in zip(chosen.schema.names, map(_texts, chosen.columns), strict=True):
                if chosen.num_rows and not isinstance(column, pa.ExtensionArray):
                    self.digests[at].setdefault(name, Digest()).add(*encoded(column))


def _inside(batch: pa.RecordBatch, key: str, part: Part) -> pa.RecordBatch:
    """The rows of a batch that belong to a part; the batch is in the order of its keys."""
    keys = batch.column(key)
    if isinstance(part, KeySet):
        return batch.filter(_among(keys, part.keys))
    start = 0 if part.after is None else _above(keys, part.after)
    stop = len(keys) if part.upto is None else _above(keys, part.upto)
    return batch.slice(start, max(0, stop - start))


def _among(keys: pa.Array, some: Sequence[Key]) -> pa.Array:
    # A rejected key may exceed the type of the column.
    kind = keys.type if pa.types.is_string(keys.type) else pa.int64()
    return pc.is_in(keys.cast(kind), pa.array(some, kind))


def _above(keys: pa.Array, bound: Key) -> int:
    """The position of the first key above a bound."""
    return bisect_right(range(len(keys)), bound, key=lambda at: keys[at].as_py())


def _texts(column: pa.Array) -> pa.Array:
    """A column whose texts are spelled as PostgreSQL spells them, as texts."""
    return column.storage if isinstance(column.type, pa.OpaqueType) else column


def encoded(column: pa.Array) -> tuple[Any, Any]:
    """Lengths of a column's values, and their bytes without gaps; NULLs have no bytes."""
    kind = column.type
    there = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.drop_null() if column.null_count else column
    if pa.types.is_string(kind):
        lengths, data = _variable(values)
    elif pa.types.is_binary(kind):
        data = b"".join(_md5s(values))
        lengths = np.full(len(values), 16, np.int32)
    elif pa.types.is_decimal(kind):
        lengths, data = _variable(_whole_numbers(values))
    else:
        data = _fixed(values)
        lengths = np.full(len(values), data.dtype.itemsize, np.int32)
        data = data.tobytes()
    sizes = np.full(len(column), -1, np.int32)
    sizes[there] = lengths
    return sizes, data


def _fixed(values: pa.Array) -> Any:
    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.uint8()).to_numpy()
    if pa.types.is_floating(kind):
        # Minus zero equals zero.
        return (values.to_numpy() + 0.0).astype(">f4" if pa.types.is_float32(kind) else ">f8")
    if pa.types.is_date32(kind):
        return (values.cast(pa.int32()).to_numpy() - _EPOCH_DAYS).astype(">i4")
    if pa.types.is_time64(kind):
        return values.cast(pa.int64()).to_numpy().astype(">i8")
    if pa.types.is_timestamp(kind):
        since = values.cast(pa.int64()).to_numpy() - _EPOCH_MICROSECONDS
        return since.astype(">i8")
    return values.to_numpy().astype(">i8")


def _whole_numbers(values: pa.Array) -> pa.Array:
    """Decimals without their point, as texts."""
    kind = pa.decimal128(values.type.precision, 0)
    whole = pa.Array.from_buffers(kind, len(values), values.buffers(), offset=values.offset)
    return whole.cast(pa.string())


def _variable(values: pa.Array) -> tuple[Any, Any]:
    if not len(values):
        return np.empty(0, np.int32), b""
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.diff(ends), memoryview(data or b"")[ends[0] : ends[-1]]


def _md5s(values: pa.Array) -> list[bytes]:
    if not len(values):
        return []
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    view = memoryview(data or b"")
    return [
        hashlib.md5(view[start:stop], usedforsecurity=False).digest()
        for start, stop in pairwise(ends.tolist())
    ]
