"""One move under way: what its phases share, and how it tells how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.progress import OnProgress, Phase, Progress
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import EVERY_ROW, TableScope
from pipeline.move.ledger.conflicts import Conflicts
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.reading.extract import Source, Survey
from pipeline.move.reading.prepare import Prepared
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Written:
    """What a transaction has written to a table.

    Attributes:
        inserted: rows, and so are the next two.
        updated: whether a value became another one or not.
        deleted: not those that TRUNCATE took.
        file: the number of the table's file; TRUNCATE gives it another one.
    """

    inserted: int
    updated: int
    deleted: int
    file: int | None


Counts = dict[str, Written]
"""The same by table."""


@dataclass
class MoveContext:
    """What the phases of one move share.

    Attributes:
        target: the session, inside the move's transaction.
        source: the snapshot, or the live file.
        prepared: the table, matched and surveyed.
        options: what holds for every table of the run.
        on_progress: told after every batch; what it raises ends the move.
        scope: the rows that the move answers for.
        mark: up to where the source was read before, None if it never was.
        before: what was counted of each table when the transaction began, once it has.
        converter: the table's rows; rejected ones are noted there.
        conflicts: rows that somebody changed in the target.
        newest: the largest date of change that was read so far.
        target_rows: rows that the target held before, once they were counted.
        scope_before: how many of the rows in scope the target held before.
        written: rows inserted or updated so far.
        deleted: rows deleted so far.
        seconds: time by phase so far.
    """

    target: Target
    source: Source
    prepared: Prepared
    options: MoveOptions
    on_progress: OnProgress = lambda _: None
    scope: TableScope = EVERY_ROW
    mark: Watermark | None = None
    target_rows: int | None = None
    scope_before: int = 0
    written: int = 0
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    newest: datetime | None = None
    before: Counts | None = None
    converter: BatchConverter = field(init=False)
    conflicts: Conflicts = field(init=False)

    def __post_init__(self) -> None:
        """Begin with every row that the survey did not reject."""
        self.converter = BatchConverter(
            self.source, self.mapping, self.prepared.contract, self.survey
        )
        self.conflicts = Conflicts(self.mapping)
        self.newest, self.target_rows = self.scope.newest, self.scope.rows_before

    def follow(self, mark: Watermark | None) -> None:
        """Go on from where the source was read before."""
        self.mark = mark
        self.conflicts.follow(self.target, mark.newest if mark else None)

    def see(self, converted: ConvertedBatch) -> None:
        """Note the largest date of change of some rows of the source."""
        self.newest = later(self.newest, converted, self.mapping)

    @property
    def mapping(self) -> TableMapping:
        """The table."""
        return self.prepared.mapping

    @property
    def survey(self) -> Survey:
        """What one look at the table found."""
        return self.prepared.survey

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that passes inside to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def counter(self, phase: Phase) -> Callable[[ConvertedBatch], None]:
        """Count batches of a phase that begins now, and report after each."""
        return counter(self.mapping.name, phase, self.survey.rows, self.on_progress)


def later(
    newest: datetime | None, converted: ConvertedBatch, mapping: TableMapping
) -> datetime | None:
    """The larger of a date and all dates of change of some rows."""
    if mapping.changed_by is None:
        return newest
    dates = converted.batch.column(mapping.changed_by)
    if not pa.types.is_timestamp(dates.type):
        return newest
    largest: datetime | None = pc.max(dates).as_py()
    found = [date for date in (newest, largest) if date is not None]
    return max(found, default=None)


def counter(
    table: str, phase: Phase, of_rows: int, on_progress: OnProgress
) -> Callable[[ConvertedBatch], None]:
    """Count batches of a phase that begins now, and report after each."""
    started, rows, size = time.perf_counter(), 0, 0

    def count(converted: ConvertedBatch) -> None:
        nonlocal rows, size
        rows += converted.part.rows
        size += converted.part.bytes
        seconds = time.perf_counter() - started
        on_progress(Progress(table, phase, rows, of_rows, size, seconds))

    return count
