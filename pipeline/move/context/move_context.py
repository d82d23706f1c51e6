"""The state of one running move, shared by its phases, and its progress reports."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import LossyConversion
from pipeline.core.progress import OnProgress, Phase, Progress, waiting
from pipeline.mapping.casts.cast import UTC_MICROSECONDS
from pipeline.mapping.contract import Rejected, forbidden_loss
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import EVERY_ROW, TableScope
from pipeline.move.ledger import quarantine
from pipeline.move.ledger.conflicts import Conflicts
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.reading.prepare import Prepared
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Survey
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Written:
    """How many rows a transaction has written to a table.

    Attributes:
        updated: number of rows, including those whose values stay the same.
        deleted: number of rows, without those that TRUNCATE removed.
        file: the number of the table's file, which TRUNCATE changes.
    """

    inserted: int
    updated: int
    deleted: int
    file: int | None


Counts = dict[str, Written]
"""Written rows by table."""


@dataclass
class MoveContext:
    """The state of one move, shared by its phases.

    Attributes:
        on_progress: called after every batch; an exception ends the move.
        watermark: the last watermark, None if the source was never read.
        counts_at_start: rows written to each table when the transaction began.
        server_roles: the Supabase roles that exist on the server.
        newest: the largest date of change that was read so far.
        target_rows: rows of the target before the move; None until they are counted.
        scope_before: rows in scope that the target had before the move.
    """

    target: Target
    source: SourceView
    prepared: Prepared
    options: MoveOptions
    on_progress: OnProgress = lambda _: None
    scope: TableScope = EVERY_ROW
    watermark: Watermark | None = None
    target_rows: int | None = None
    scope_before: int = 0
    written: int = 0
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    newest: datetime | None = None
    counts_at_start: Counts = field(default_factory=dict)
    server_roles: Sequence[str] = ()
    converter: BatchConverter = field(init=False)
    conflicts: Conflicts = field(init=False)

    def __post_init__(self) -> None:
        """Start with all rows that the survey did not reject."""
        self.converter = BatchConverter(
            self.source, self.mapping, self.prepared.contract, self.survey
        )
        self.conflicts = Conflicts(self.mapping)
        self.newest, self.target_rows = self.scope.newest, self.scope.rows_before

    def load_watermark(self, watermark: Watermark | None) -> None:
        """Continue from the last watermark."""
        self.watermark = watermark
        self.conflicts.follow(self.target, watermark.newest if watermark else None)

    def update_newest(self, converted: ConvertedBatch) -> None:
        """Update the largest date of change with the rows of a batch."""
        self.newest = later(self.newest, converted, self.mapping)

    @property
    def mapping(self) -> TableMapping:
        """The table."""
        return self.prepared.mapping

    @property
    def survey(self) -> Survey:
        """The survey of the table."""
        return self.prepared.survey

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that passes inside to a phase, and name it as what the run waits for."""
        started = time.perf_counter()
        try:
            with waiting(f"{self.mapping.name}, {phase}"):
                yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def counter(self, phase: Phase) -> Callable[[ConvertedBatch], None]:
        """Start a phase: returns a function that counts a batch and reports the progress."""
        return counter(self.mapping.name, phase, self.survey.rows, self.on_progress)

    def rejected_rows(self) -> Iterator[Rejected]:
        """Every rejected row with all values and reasons.

        Raises:
            LossyConversion: a value would be converted with a loss, and the policy forbids it.
        """
        rejected, mapping = self.converter.rejected, self.mapping
        if not rejected:
            return
        held = quarantine.held_keys(self.target, [parent.name for _, parent in mapping.parents])
        known = {str(row_id): reason for row_id, reason in rejected.items() if reason is not None}
        with self.source.sqlite() as connection:
            for row in self.prepared.contract.explain(
                connection,
                sorted(rejected),
                row_id_column=self.source.row_id_column(mapping),
                held=held,
                known=known,
                collations=self.source.collations(mapping),
                all_rows_prefix=f"{self.source.schema}.",
            ):
                forbidden = forbidden_loss(mapping, row)
                if forbidden:
                    raise LossyConversion(
                        forbidden,
                        remedy=f"Nothing of {mapping.name} was changed. Correct the value in the"
                        " source, or set POLICY_LOSSY_CONVERSIONS to keep or quarantine",
                    )
                yield row


def later(
    newest: datetime | None, converted: ConvertedBatch, mapping: TableMapping
) -> datetime | None:
    """The largest of a date and the dates of change of a batch."""
    if mapping.changed_by is None:
        return newest
    dates = converted.batch.column(mapping.changed_by)
    if not pa.types.is_timestamp(dates.type):
        return newest
    largest: datetime | None = pc.max(dates.cast(UTC_MICROSECONDS)).as_py()
    found = [date for date in (newest, largest) if date is not None]
    return max(found, default=None)


def counter(
    table: str, phase: Phase, total_rows: int, on_progress: OnProgress
) -> Callable[[ConvertedBatch], None]:
    """Start a phase: returns a function that counts a batch and reports the progress."""
    started, rows, size = time.perf_counter(), 0, 0

    def count(converted: ConvertedBatch) -> None:
        nonlocal rows, size
        rows += converted.part.rows
        size += converted.part.bytes
        seconds = time.perf_counter() - started
        on_progress(Progress(table, phase, rows, total_rows, size, seconds))

    return count
