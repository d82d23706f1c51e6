"""Surveys: the ranges of a table whose rows fit into one batch, and rows that cannot move."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import SourceError
from pipeline.mapping.contract import Reason, is_utf8

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 65_536
DUPLICATE = Reason("duplicate_key", None, "shares its primary key with another row")


@dataclass(frozen=True)
class Range:
    """Rows of one batch: their keys lie between ``first`` and ``last``, both included."""

    first: Any
    last: Any
    rows: int
    bytes: int


@dataclass(frozen=True)
class Survey:
    """The result of reading every row of a table once.

    Attributes:
        rows: all rows of the source table, including rejected ones.
        bytes: size of their values, as stored.
        ranges: ranges of ascending keys, each of which fits into one batch.
        rejected: row ids of the rows that violate the contract, ascending.
        duplicates: row ids of rejected rows that share their key.
    """

    rows: int
    bytes: int
    ranges: tuple[Range, ...]
    rejected: tuple[Any, ...]
    duplicates: frozenset[Any]


@dataclass
class SurveyCollector:
    """Collects the rows of a survey."""

    table: str
    most_rows: int
    largest: int
    rows: int = 0
    bytes: int = 0
    ranges: list[Range] = field(default_factory=list)
    rejected: list[Any] = field(default_factory=list)
    duplicates: set[Any] = field(default_factory=set)
    last_key: Any = None
    last_row_id: Any = None

    def add(self, keys: pa.Array, row_ids: pa.Array, sizes: Any, bad: pa.Array | None) -> None:
        """Add a batch of rows in key order; ``bad`` is 1 for rows that violate the contract."""
        self.rows += len(keys)
        self.bytes += int(sizes.sum())
        self._require_plausible(sizes)
        if bad is not None:
            self.rejected += pc.filter(row_ids, pc.equal(bad, 1)).to_pylist()
        keys = self._valid_keys(keys, row_ids)
        if keys.null_count:
            valid = keys.is_valid()
            sizes = sizes[valid.to_numpy(zero_copy_only=False)]
            keys, row_ids = keys.filter(valid), row_ids.filter(valid)
        if not len(keys):
            return
        same = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)
        for number in np.flatnonzero(same).tolist():
            self.duplicates.update((row_ids[number].as_py(), row_ids[number + 1].as_py()))
        if self.ranges and keys[0].as_py() == self.last_key:
            self.duplicates.update((self.last_row_id, row_ids[0].as_py()))
        self.last_key, self.last_row_id = keys[-1].as_py(), row_ids[-1].as_py()
        self._cut(keys, sizes)

    def _require_plausible(self, sizes: Any) -> None:
        """Stop if the rows read exceed what the file can contain, or a row is too large."""
        if self.rows > self.most_rows:
            raise endless(self.table)
        if len(sizes) and sizes.max() > self.largest:
            raise SourceError(
                f"{self.table} of the source has a row of {int(sizes.max()):,} bytes, more than"
                f" MAX_VALUE_BYTES ({self.largest:,})",
                remedy="Remove it from the source, or raise MAX_VALUE_BYTES if there is enough"
                " memory",
            )

    def _valid_keys(self, keys: pa.Array, row_ids: pa.Array) -> pa.Array:
        """Replace keys that are not valid text in PostgreSQL by NULL, and reject their rows."""
        if not pa.types.is_string(keys.type):
            return keys
        raw = keys.cast(pa.binary())
        with contextlib.suppress(pa.ArrowInvalid):
            keys.validate(full=True)
            if not pc.any(pc.match_substring(raw, b"\0")).as_py():
                return keys
        found = raw.to_pylist()
        good = [key is not None and is_text(key) for key in found]
        self.rejected += row_ids.filter(pc.invert(pa.array(good))).to_pylist()
        texts = [key.decode() if ok else None for key, ok in zip(found, good, strict=True)]
        return pa.array(texts, pa.string())

    def _cut(self, keys: pa.Array, sizes: Any) -> None:
        for start, stop, size in batches(sizes):
            first, last = keys[start].as_py(), keys[stop - 1].as_py()
            self.ranges.append(Range(first, last, stop - start, size))

    def survey(self) -> Survey:
        """The result."""
        rejected = sorted({*self.rejected, *self.duplicates})
        return Survey(
            self.rows,
            self.bytes,
            tuple(self.ranges),
            tuple(rejected),
            frozenset(self.duplicates),
        )


def batches(sizes: Any) -> Iterator[tuple[int, int, int]]:
    """Divide rows, given by their sizes, into batches: start, stop, bytes of each."""
    ends = np.cumsum(sizes)
    start, before = 0, 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + BATCH_ROWS)
        yield start, stop, int(ends[stop - 1] - before)
        start, before = stop, int(ends[stop - 1])


def endless(table: str) -> SourceError:
    """The error for a table whose pages form a loop."""
    return SourceError(
        f"The source is damaged: {table} has more rows than its file can hold",
        remedy="Restore it from a backup, or recover it with `sqlite3 FILE .recover`",
    )


def is_text(key: bytes) -> bool:
    """Whether PostgreSQL can store a key as text."""
    return is_utf8(key) and b"\0" not in key
