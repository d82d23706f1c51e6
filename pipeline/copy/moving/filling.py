"""Fill a table of the target with all rows of its source, in their order.

A batch is converted and copied without checks. If a cast or PostgreSQL refuses it, it is bisected
until the row stands alone that causes the error; such a row is rejected, and the rest moves.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import sqlalchemy as sa

from pipeline.copy.source import reading
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.source.reading import RawRows, RowRange
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.progress import reporter
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Reason, conversion_message
from pipeline.move.context.move_context import counter
from pipeline.move.reading.batch_converter import ConvertedBatch, convert, read_ahead, unconvertible
from pipeline.move.reading.surveys import Range
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
STAGE = "pipeline_stage"
"""The name of the temporary table that takes rows for a comparison."""


@dataclass(frozen=True)
class Batch:
    """Rows of one range, ready for COPY, and their row ids."""

    part: RowRange
    converted: ConvertedBatch
    ids: pa.Array


@dataclass
class Rows:
    """The rows of one table, except the rejected ones.

    Attributes:
        rejected: row ids, each with a reason that no rule gives.
    """

    source: PreparedSource
    table: CopiedTable
    rejected: dict[int, Reason | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start with the rows that break a rule, if there may be any."""
        if self.table.checked:
            ids = reading.violating(self.source, self.table.source, self.table.contract)
            self.rejected |= dict.fromkeys(ids)

    def __iter__(self) -> Iterator[Batch]:
        """All ranges, in the order of the row ids."""
        for part in self.table.ranges:
            yield self.batch(part)

    def batch(self, part: RowRange) -> Batch:
        """Read and convert one range."""
        without = [each for each in self.rejected if part.first <= each <= part.last]
        mapping = self.table.mapping
        try:
            raw = reading.read(self.source, self.table.source, mapping, part, without=without)
        except pa.ArrowInvalid:
            if self.table.checked:
                raise
            # A value of another storage class than the census has seen cannot be read in a batch.
            ids = reading.violating(self.source, self.table.source, self.table.contract)
            self.rejected |= dict.fromkeys(ids)
            without = [each for each in self.rejected if part.first <= each <= part.last]
            raw = reading.read(self.source, self.table.source, mapping, part, without=without)
        try:
            return _batch(self.table, part, raw)
        except pa.ArrowInvalid:
            return _batch(self.table, part, self._convertible(raw))

    def ahead(
        self, items: Iterator[T], *, depth: int = 2
    ) -> contextlib.AbstractContextManager[Iterator[T]]:
        """Items of the ranges, computed ahead in a thread, unless there is only one."""
        if len(self.table.ranges) < 2:
            return contextlib.nullcontext(items)
        return read_ahead(items, depth=depth)

    def count(self, part: RowRange) -> int:
        """Number of rows of a range that are not rejected."""
        if not self.rejected:
            return part.rows
        return part.rows - sum(part.first <= each <= part.last for each in self.rejected)

    @property
    def counted(self) -> list[tuple[RowRange, int]]:
        """Each range, and how many of its rows are not rejected."""
        return [(part, self.count(part)) for part in self.table.ranges]

    @property
    def key(self) -> str | None:
        """The column of the target with the row ids of the source, quoted; None if none has."""
        source = self.table.source
        if not source.is_row_id or source.name in self.source.stand_ins:
            return None
        name = self.table.names[self.table.exact(source.primary_key[0])]
        kind = self.table.mapping.table.columns[name].type
        return quoted(name) if isinstance(kind, sa.Integer) else None

    def _convertible(self, raw: RawRows) -> RawRows:
        """The rows that can be converted; the others are rejected."""
        try:
            convert(self.table.mapping, raw.values)
        except pa.ArrowInvalid as error:
            if len(raw.ids) > 1:
                half = len(raw.ids) // 2
                parts = self._convertible(raw.slice(0, half)), self._convertible(raw.slice(half))
                return RawRows(
                    pa.concat_batches([each.values for each in parts]),
                    pa.concat_arrays([each.ids for each in parts]),
                )
            why = unconvertible(self.table.mapping, raw.values, conversion_message(error))
            self.rejected[raw.ids[0].as_py()] = Reason("conversion", *why)
            return raw.slice(0, 0)
        return raw


def _batch(table: CopiedTable, part: RowRange, raw: RawRows) -> Batch:
    batch, lossy = convert(table.mapping, raw.values)
    as_range = Range(part.first, part.last, part.rows, part.bytes)
    return Batch(part, ConvertedBatch(as_range, batch, raw.values, lossy, True), raw.ids)


def fill(target: Target, rows: Rows, *, stage: bool = False) -> None:
    """Copy all rows into the table, which has no constraints yet, or into the stage."""
    count = counter(rows.table.label, "load", rows.table.rows, reporter(_LOG))
    with rows.ahead(iter(rows)) as batches:
        for batch in batches:
            columns = [c.name for c in rows.table.mapping.columns] if stage else rows.table.written
            _copy(target, rows, batch.converted.batch.select(columns), batch.ids, stage=stage)
            count(batch.converted)


def _copy(target: Target, rows: Rows, batch: pa.RecordBatch, ids: pa.Array, *, stage: bool) -> None:
    """COPY a batch; if PostgreSQL refuses it, bisect it and reject single rows."""
    if not batch.num_rows:
        return
    try:
        with target.savepoint():
            if stage:
                target.copy(STAGE, batch, temporary=True)
            else:
                target.copy(rows.table.name, batch, schema=rows.table.schema)
    except DataFault as fault:
        if not fault.value_refused:
            raise
        if batch.num_rows == 1:
            message = f"is rejected by PostgreSQL: {fault} (SQLSTATE {fault.sqlstate})"
            column = fault.context.column or None
            rows.rejected[ids[0].as_py()] = Reason("refused", column, message)
            return
        half = batch.num_rows // 2
        _copy(target, rows, batch.slice(0, half), ids.slice(0, half), stage=stage)
        _copy(target, rows, batch.slice(half), ids.slice(half), stage=stage)
