"""Convert the clean rows of a table for the target, and record the rejected ones.

A batch is first converted without checking its contract: if a row is not clean, a cast raises an
error or PostgreSQL refuses the batch. Only then the contract is evaluated for its range, and for
all following ranges. Errors that the contract cannot predict are located by bisecting the batch.
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

from pipeline.mapping.casts.cast import Converted
from pipeline.mapping.casts.json_texts import mask_repeated_names
from pipeline.mapping.contract import LOSES, LOSSY, Contract, Reason, conversion_message
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import DUPLICATE, Range, Survey

T = TypeVar("T")


@dataclass(frozen=True)
class ConvertedBatch:
    """One range, converted.

    Attributes:
        batch: clean rows, ready for COPY.
        raw: the same rows with the values from SQLite.
        lossy: column name -> mask of irreversibly converted values.
        contract_checked: whether the contract was evaluated for every row.
    """

    part: Range
    batch: pa.RecordBatch
    raw: pa.RecordBatch
    lossy: dict[str, pa.Array]
    contract_checked: bool


@dataclass
class BatchConverter:
    """Converts one table of one snapshot.

    Attributes:
        rejected: row ids of rejected rows, with the reason if it is not from the contract.
        check_contract: whether the contract is evaluated for every range, not only after a failure.
    """

    source: SourceView
    mapping: TableMapping
    contract: Contract
    survey: Survey
    rejected: dict[Any, Reason | None] = field(default_factory=dict)
    check_contract: bool = False

    def __post_init__(self) -> None:
        """Start with the rows that the survey rejected."""
        for row_id in self.survey.rejected:
            self.rejected[row_id] = DUPLICATE if row_id in self.survey.duplicates else None

    def __iter__(self) -> Iterator[ConvertedBatch]:
        """Every range, in key order."""
        for part in self.survey.ranges:
            yield self.convert(part)

    def convert(self, part: Range, *, check_contract: bool = False) -> ConvertedBatch:
        """Read and convert one range; reject what cannot be converted."""
        self.check_contract = self.check_contract or check_contract
        contract_checked = self.check_contract
        if contract_checked:
            for row_id in self.source.violating_row_ids(self.mapping, self.contract, part):
                self.rejected.setdefault(row_id, None)
        left_out = list(self.rejected)
        try:
            raw = self.source.read(self.mapping, part, without=left_out)
            batch, lossy = convert(self.mapping, raw)
        except pa.ArrowInvalid:
            if not contract_checked:
                return self.convert(part, check_contract=True)
            raw = self._convertible(self.source.read(self.mapping, part, without=left_out))
            batch, lossy = convert(self.mapping, raw)
        if self.mapping.policies.lossy_conversions != "keep":
            for name, repeats in self._repeating(batch).items():
                lossy[name] = pc.or_(lossy[name], repeats) if name in lossy else repeats
            batch, raw, lossy = self._without_lossy(batch, raw, lossy)
        return ConvertedBatch(part, batch, raw, lossy, contract_checked)

    def _repeating(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Masks of JSON texts with a repeated name, of which jsonb keeps only the last value."""
        return {
            column.name: mask_repeated_names(batch.column(column.name).storage)
            for column in self.mapping.columns
            if isinstance(column.type, JSONB)
        }

    def _without_lossy(
        self, batch: pa.RecordBatch, raw: pa.RecordBatch, lossy: dict[str, pa.Array]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch, dict[str, pa.Array]]:
        """Reject rows with lossy conversions; values that replace a NULL are accepted."""
        keys = batch.column(self.mapping.key.name)
        lost = pa.array([False] * batch.num_rows, pa.bool_())
        for name, where in lossy.items():
            losses = pc.and_(pc.fill_null(where, False), raw.column(name).is_valid())
            if pc.any(losses).as_py():
                reason = Reason(LOSSY, name, LOSES)
                self.reject(keys.filter(losses).to_pylist(), reason)
                lost = pc.or_(lost, losses)
        kept = pc.invert(lost)
        return (
            batch.filter(kept),
            raw.filter(kept),
            {name: where.filter(kept) for name, where in lossy.items()},
        )

    def reject(self, keys: list[Any], reason: Reason) -> None:
        """Reject the rows with these keys."""
        for row_id in self.source.row_ids_by_key(self.mapping, keys):
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
                Reason("conversion", *unconvertible(self.mapping, raw, str(error))),
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
    """Replace NULL by a value; such a conversion is lossy."""
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


def unconvertible(
    mapping: TableMapping, raw: pa.RecordBatch, message: str
) -> tuple[str | None, str]:
    """The column of a row that cannot be converted, and why.

    Args:
        message: the reason if no column alone is the cause.
    """
    for name, column in zip(raw.schema.names, raw.columns, strict=True):
        try:
            mapping.casts[name].convert(column)
        except pa.ArrowInvalid as error:
            text = str(error)
            if "UTF8" in text:
                return name, "is not valid UTF-8"
            return name, conversion_message(error)
    return None, message


_END = object()


@contextmanager
def read_ahead(items: Iterator[T], *, depth: int = 2) -> Iterator[Iterator[T]]:
    """Compute the next items in a separate thread while the caller processes one.

    Exceptions of the thread are raised in the caller. When the caller leaves, the thread ends at
    its next item, and the caller waits for it.
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

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            put(_Raised(error))
        else:
            put(_END)

    thread = threading.Thread(target=produce, name="ahead", daemon=True)
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
