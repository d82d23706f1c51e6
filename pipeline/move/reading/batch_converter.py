"""Clean rows of a table on their way to the target; the rejected ones are noted.

A batch is trusted first: its casts raise, or PostgreSQL refuses it, if a row is not clean. Only
then is its range judged by the contract, and from there on every further one. What the contract
cannot foresee is found by cutting the batch in halves until the row stands alone.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.mapping.contract import LOSES, LOSSY, Contract, Reason, cannot_be_converted
from pipeline.mapping.json_texts import repeating
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import Converted
from pipeline.move.reading.extract import DUPLICATE, Range, Source, Survey

T = TypeVar("T")


@dataclass(frozen=True)
class ConvertedBatch:
    """One range, converted.

    Attributes:
        part: where it comes from.
        batch: clean rows, as COPY takes them.
        raw: the same rows as SQLite gave them.
        lossy: column name -> where a value was changed in a way that cannot be undone.
        judged: whether the contract has seen every row.
    """

    part: Range
    batch: pa.RecordBatch
    raw: pa.RecordBatch
    lossy: dict[str, pa.Array]
    judged: bool


@dataclass
class BatchConverter:
    """Sifts one table of one snapshot.

    Attributes:
        rejected: row ids of rejected rows, with the reason where the contract has none.
        judging: whether the contract looks at every row, and not only where a batch failed.
    """

    source: Source
    mapping: TableMapping
    contract: Contract
    survey: Survey
    rejected: dict[Any, Reason | None] = field(default_factory=dict)
    judging: bool = False

    def __post_init__(self) -> None:
        """Take over what the survey has found."""
        for row_id in self.survey.rejected:
            self.rejected[row_id] = DUPLICATE if row_id in self.survey.duplicates else None

    def __iter__(self) -> Iterator[ConvertedBatch]:
        """Every range, in key order."""
        for part in self.survey.ranges:
            yield self.convert(part)

    def convert(self, part: Range, *, judge: bool = False) -> ConvertedBatch:
        """Read and convert one range; reject what cannot be converted."""
        self.judging = self.judging or judge
        judged = self.judging
        if judged:
            for row_id in self.source.judge(self.mapping, self.contract, part):
                self.rejected.setdefault(row_id, None)
        left_out = list(self.rejected)
        try:
            raw = self.source.read(self.mapping, part, without=left_out)
            batch, lossy = convert(self.mapping, raw)
        except pa.ArrowInvalid:
            if not judged:
                return self.convert(part, judge=True)
            raw = self._convertible(self.source.read(self.mapping, part, without=left_out))
            batch, lossy = convert(self.mapping, raw)
        if self.mapping.policies.lossy_conversions != "keep":
            for name, repeats in self._repeating(batch).items():
                lossy[name] = pc.or_(lossy[name], repeats) if name in lossy else repeats
            batch, raw, lossy = self._without_lossy(batch, raw, lossy)
        return ConvertedBatch(part, batch, raw, lossy, judged)

    def _repeating(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Where a JSON text says a name twice, of which jsonb keeps the last."""
        return {
            column.name: repeating(batch.column(column.name).storage)
            for column in self.mapping.columns
            if isinstance(column.type, JSONB)
        }

    def _without_lossy(
        self, batch: pa.RecordBatch, raw: pa.RecordBatch, lossy: dict[str, pa.Array]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch, dict[str, pa.Array]]:
        """Reject the rows whose values would lose something; what stands for a NULL may stay."""
        keys = batch.column(self.mapping.key.name)
        lost = pa.array([False] * batch.num_rows, pa.bool_())
        for name, where in lossy.items():
            there = pc.and_(pc.fill_null(where, False), raw.column(name).is_valid())
            if pc.any(there).as_py():
                reason = Reason(LOSSY, name, LOSES)
                self.reject(keys.filter(there).to_pylist(), reason)
                lost = pc.or_(lost, there)
        kept = pc.invert(lost)
        return (
            batch.filter(kept),
            raw.filter(kept),
            {name: where.filter(kept) for name, where in lossy.items()},
        )

    def reject(self, keys: list[Any], reason: Reason) -> None:
        """Note rows that turned out not to be clean."""
        for row_id in self.source.row_ids_of(self.mapping, keys):
            self.rejected[row_id] = reason

    def _convertible(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        try:
            convert(self.mapping, raw)
        except pa.ArrowInvalid as error:
            if raw.num_rows > 1:
                half = raw.num_rows // 2
                halves = [self._convertible(raw.slice(0, half)), self._convertible(raw.slice(half))]
                return pa.concat_batches(halves)
            self.reject(
                raw.column(self.mapping.key.name).to_pylist(),
                Reason("conversion", *_unconvertible(self.mapping, raw, str(error))),
            )
            return raw.slice(0, 0)
        return raw


def convert(
    mapping: TableMapping, raw: pa.RecordBatch
) -> tuple[pa.RecordBatch, dict[str, pa.Array]]:
    """Convert every column of a batch.

    Raises:
        pa.ArrowInvalid: a value cannot be converted.
    """
    names = raw.schema.names
    converted: dict[str, Converted] = {
        name: mapping.casts[name].convert(column)
        for name, column in zip(names, raw.columns, strict=True)
    }
    for name, fill in mapping.fills.items():
        if name in converted:
            converted[name] = _filled(converted[name], fill)
    lossy = {name: c.lossy for name, c in converted.items() if c.lossy is not None}
    return pa.RecordBatch.from_arrays([converted[n].values for n in names], names=names), lossy


def _filled(converted: Converted, fill: pa.Scalar) -> Converted:
    """Put a value where NULL is; that cannot be undone."""
    values = converted.values
    nulls = values.is_null()
    if not values.null_count:
        return converted
    if isinstance(values, pa.ExtensionArray):
        storage = pc.fill_null(values.storage, fill.value)
        values = pa.ExtensionArray.from_storage(values.type, storage)
    else:
        values = pc.fill_null(values, fill)
    lossy = (
        nulls if converted.lossy is None else pc.or_(pc.fill_null(converted.lossy, False), nulls)
    )
    return Converted(values, lossy)


def _unconvertible(
    mapping: TableMapping, raw: pa.RecordBatch, message: str
) -> tuple[str | None, str]:
    for name, column in zip(raw.schema.names, raw.columns, strict=True):
        try:
            mapping.casts[name].convert(column)
        except pa.ArrowInvalid as error:
            text = str(error)
            if "UTF8" in text:
                return name, "is not valid UTF-8"
            return name, cannot_be_converted(error)
    return None, message


_END = object()


@contextmanager
def ahead(items: Iterator[T], *, depth: int = 2) -> Iterator[Iterator[T]]:
    """Compute the next items in a thread of their own while the caller works on one.

    An exception of the thread is raised to the caller. When the caller leaves, the thread ends at
    its next item, and it has ended before the caller goes on.
    """
    waiting: queue.Queue[object] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def context() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            put(_Raised(error))
        else:
            put(_END)

    thread = threading.Thread(target=context, name="ahead", daemon=True)
    thread.start()

    def results() -> Iterator[T]:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]

    try:
        yield results()
    finally:
        stopped.set()
        thread.join()


@dataclass(frozen=True)
class _Raised:
    error: BaseException
