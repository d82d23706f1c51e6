"""Read every table once, and find out what its columns hold.

A table of few rows is read by Python's ``sqlite3``. A larger one is read twice by Arrow. The first
scan reads sizes, and the storage classes of columns whose declared type does not determine them; it
divides the table into ranges that fit into one batch. The second reads the values of each range,
one output for each storage class of a column. BLOBs are not read, only their sizes.
"""

import contextlib
import contextvars
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.copy.census import scans
from pipeline.copy.census.collect import ColumnCollector
from pipeline.copy.census.facts import TableCensus
from pipeline.copy.census.formats import Form
from pipeline.copy.census.scans import Storage, WrongClassError
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.source.reading import RowRange
from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import cast_for
from pipeline.move.reading.surveys import BATCH_BYTES, BATCH_ROWS, batches
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.structure.model import Table

_THREADS = 2
_FEW = 500
"""Up to this many rows, starting the queries of Arrow costs more than Python's work."""
Given = Mapping[str, Mapping[str, "sa.types.TypeEngine[Any]"]]
"""Types that the user gives to columns, by table and column."""


def survey(source: PreparedSource, table: Table) -> TableCensus:
    """The census of one table.

    Raises:
        SourceError: the table cannot be read.
    """
    return next(survey_all(source, [table]))


def survey_all(
    source: PreparedSource, tables: Iterable[Table], *, given: Given | None = None, few: int = _FEW
) -> Iterator[TableCensus]:
    """The census of each table.

    Args:
        given: types whose misfits are counted.
        few: the most rows of a table that Python reads.

    Raises:
        SourceError: a table cannot be read.
    """
    with source.sqlite() as connection, source.arrow(batch_rows=BATCH_ROWS + 1) as cursor:
        connection.text_factory = _Text
        for table in tables:
            types = (given or {}).get(table.name, {})
            yield _Survey(source, table, types, connection, cursor).run(few)


def survey_together(
    source: PreparedSource, tables: Sequence[Table], *, given: Given | None = None
) -> list[TableCensus]:
    """The census of each table, in their order; threads take the tables in turn.

    Args:
        given: types whose misfits are counted.

    Raises:
        SourceError: a table cannot be read.
    """
    waiting = deque(tables)

    def taken() -> Iterator[Table]:
        with contextlib.suppress(IndexError):
            while True:
                yield waiting.popleft()

    def work() -> list[TableCensus]:
        return list(survey_all(source, taken(), given=given))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="census") as pool:
        found = [pool.submit(contextvars.copy_context().run, work) for _ in range(_THREADS)]
        censuses = {census.table.name: census for each in found for census in each.result()}
    return [censuses[table.name] for table in tables]


class _Text(bytes):
    """The bytes of a TEXT, apart from those of a BLOB."""


@dataclass
class _Survey:
    """The survey of one table."""

    source: PreparedSource
    table: Table
    given: Mapping[str, "sa.types.TypeEngine[Any]"]
    connection: sqlite3.Connection
    cursor: Any
    collectors: list[ColumnCollector] = field(init=False)

    def __post_init__(self) -> None:
        self._restart()

    def run(self, few: int) -> TableCensus:
        """Read the table."""
        rows = self._few_rows(few) if few else None
        if rows is not None:
            return self._census(self._add_rows(rows))
        try:
            return self._census(self._large())
        except OSError as error:
            # The reader raises it for faults that it meets after the first batch.
            raise unreadable(Path(self.source.source), error) from error

    def _large(self) -> list[RowRange]:
        try:
            return self._read_all(scans.expected(self.table))
        except WrongClassError:
            # A value has another storage class than its column's type suggests.
            self._restart()
            return self._read_all(dict.fromkeys(scans.names(self.table)))

    def _restart(self) -> None:
        words: frozenset[Form] = frozenset({"words"})
        self.collectors = [
            ColumnCollector(
                column,
                words if isinstance(self.given.get(column.name), sa.Boolean) else frozenset(),
            )
            for column in self.table.columns
        ]

    def _few_rows(self, few: int) -> list[tuple[Any, ...]] | None:
        """All rows, BLOBs as texts of their sizes; None if they are more, or large."""
        row_id, place = self.source.row_id(self.table), self.source.rows_of(self.table)
        outputs = [row_id, *map(scans.value_or_size, scans.names(self.table))]
        found: list[tuple[Any, ...]] = []
        size = 0
        for row in self.connection.execute(
            f"SELECT {', '.join(outputs)} FROM {place} ORDER BY {row_id} LIMIT {few + 1}"
        ):
            size += _size(row)
            found.append(row)
            if len(found) > few or size > BATCH_BYTES:
                return None
        return found

    def _add_rows(self, rows: Sequence[tuple[Any, ...]]) -> list[RowRange]:
        if not rows:
            return []
        row_ids, *columns = zip(*rows, strict=True)
        for collector, values in zip(self.collectors, columns, strict=True):
            _add_objects(collector, values)
        return [RowRange(row_ids[0], row_ids[-1], len(rows), sum(map(_size, rows)))]

    def _read_all(self, storage: scans.Expected) -> list[RowRange]:
        """Both scans.

        Args:
            storage: the storage classes of each column; None if the first scan determines them.
        """
        ranges = []
        found = {name: set(classes or ()) for name, classes in storage.items()}
        place, row_id = self.source.rows_of(self.table), self.source.row_id(self.table)
        most = self.source.path.stat().st_size // scans.ROW_BYTES
        for row_ids, sizes in scans.sizes(
            self.cursor, self.table, (place, row_id), storage=storage, found=found, most=most
        ):
            ranges += [
                RowRange(row_ids[start].as_py(), row_ids[stop - 1].as_py(), stop - start, size)
                for start, stop, size in batches(sizes)
            ]
        outputs = scans.outputs(self.table, found)
        for each in ranges:
            bounds = (each.first, each.last)
            batch = scans.read(self.cursor, outputs, (place, row_id), bounds=bounds)
            self._add_batch(outputs, batch)
        return ranges

    def _add_batch(self, outputs: Sequence[scans.Output], batch: pa.Table) -> None:
        for output, values in zip(outputs, batch.columns, strict=True):
            for chunk in values.chunks:
                _add(self.collectors[output.number], output.storage, chunk)

    def _census(self, ranges: Sequence[RowRange]) -> TableCensus:
        rows = sum(each.rows for each in ranges)
        misfits = self._misfits() if rows else {}
        return TableCensus(
            self.table,
            rows,
            sum(each.bytes for each in ranges),
            tuple(ranges),
            tuple(
                each.facts(rows, misfits=misfits.get(each.column.name)) for each in self.collectors
            ),
        )

    def _misfits(self) -> dict[str, int]:
        """Count the rows that the given types do not take."""
        if not self.given:
            return {}
        counts = ", ".join(
            f"ifnull(sum(({_misfit(name, kind)}) IS TRUE), 0)" for name, kind in self.given.items()
        )
        place = self.source.rows_of(self.table)
        row = self.connection.execute(f"SELECT {counts} FROM {place}").fetchone()
        return dict(zip(self.given, row, strict=True))


def _misfit(name: str, kind: "sa.types.TypeEngine[Any]") -> str:
    cast, column = cast_for(sa.Column(name, kind)), quoted(name)
    rules = [cast.storage_rule(column, ""), *cast.rules(column)]
    return " OR ".join(f"({rule.violated})" for rule in rules)


def _size(row: Sequence[Any]) -> int:
    """The size of a row whose first value is its row id."""
    extra = sum(
        len(value) if isinstance(value, _Text) else int(value)
        for value in row[1:]
        if isinstance(value, bytes)
    )
    return scans.VALUE_BYTES * (len(row) - 1) + extra


def _add_objects(collector: ColumnCollector, values: Sequence[Any]) -> None:
    of: dict[type[Any], list[Any]] = {}
    for value in values:
        of.setdefault(type(value), []).append(value)
    for kind, storage in _CLASSES.items():
        if kind not in of:
            continue
        if storage == "blob":
            _add(collector, storage, pa.array(map(int, of[kind]), pa.int64()))
        elif storage == "text":
            _add(collector, storage, pa.array(of[kind], pa.binary()).view(pa.string()))
        else:
            _add(collector, storage, pa.array(of[kind], scans.TYPES[storage]))


_CLASSES: dict[type[Any], Storage] = {int: "integer", float: "real", _Text: "text", bytes: "blob"}


def _add(collector: ColumnCollector, storage: Storage, values: pa.Array) -> None:
    match storage:
        case "integer":
            collector.add_integers(values)
        case "real":
            collector.add_reals(values)
        case "text":
            collector.add_texts(values)
        case "blob":
            collector.add_blobs(values)
