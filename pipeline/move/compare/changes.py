"""The result of a comparison of source and target: differences by tile, and totals."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mapping.casts.cast import Originals
from pipeline.move.compare.digest import ColumnDigest
from pipeline.move.reading.batch_converter import ConvertedBatch

_DAY = 86_400_000_000
"""A day in microseconds: the time 24:00, which Python does not have."""
_ENDLESS_DAYS = {-2_147_472_692: "infinity", -2_147_472_691: "-infinity"}
"""PostgreSQL's infinite dates, as the driver returns them: shifted to 1970, without a check."""
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
    """Values for messages; a date or timestamp outside Python's range becomes a text."""
    if pa.types.is_time64(values.type):
        full = pc.equal(values.cast(pa.int64()), _DAY)
        return [
            "24:00:00" if is_full else time
            for time, is_full in zip(values.to_pylist(), full.to_pylist(), strict=True)
        ]
    try:
        return list(values.to_pylist())
    except OverflowError:
        texts = values.cast(pa.string()).to_pylist()
        if pa.types.is_date32(values.type):
            return [
                _ENDLESS_DAYS.get(number, text)
                for number, text in zip(values.cast(pa.int32()).to_pylist(), texts, strict=True)
            ]
        numbers = values.cast(pa.int64()).to_pylist()
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
    originals: Originals
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
