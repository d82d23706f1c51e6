"""One move under way: what its phases share, and how it tells how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.move.conflicts import Conflicts
from pipeline.move.extract import Source, Survey
from pipeline.move.landing import Landing
from pipeline.move.prepare import Prepared
from pipeline.move.sift import Sieve, Sifted
from pipeline.move.target import Target
from pipeline.move.watermarks import Watermark

DELETE_SHARE = 0.25
"""A move may delete this share of a table's rows; more looks like a wrong source."""

Phase = Literal["load", "compare", "prove", "export"]


@dataclass(frozen=True)
class Progress:
    """How far a phase of a move has come."""

    table: str
    phase: Phase
    rows: int
    of_rows: int
    bytes: int
    seconds: float


OnProgress = Callable[[Progress], None]


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


@dataclass(frozen=True)
class Part:
    """What is known of a table of which only some rows are looked at on purpose.

    Attributes:
        excluded: rows of the source that are left out.
        handles: what names the others, as the ledger writes it.
        largest: the largest key of all rows of the source, None where none is a number.
    """

    excluded: int
    handles: frozenset[str]
    largest: int | None


@dataclass(frozen=True)
class Changed:
    """What may have changed; the source of such a work holds no other rows.

    Attributes:
        keys: keys of rows that the source has.
        gone: keys of rows that the source does not have any more.
        source_rows: rows of the source in all, None where nobody has counted them.
        newest: the largest date of change of any row of the source that was seen.
        part: of the other rows nothing is known; None where they are as they were.
    """

    keys: tuple[Any, ...]
    gone: tuple[Any, ...]
    source_rows: int | None
    newest: datetime | None
    part: Part | None = None

    @property
    def touched(self) -> list[Any]:
        """All keys that are looked at."""
        return [*self.keys, *self.gone]


@dataclass
class Work:
    """What the phases of one move share.

    Attributes:
        target: the session, inside the move's transaction.
        source: the snapshot, or the live file.
        prepared: the table, matched and surveyed.
        run_id: the run that moves.
        delete_share: the share of the target's rows that may be deleted.
        on_progress: told after every batch; what it raises ends the move.
        changed: what has changed; None when every row is looked at.
        witness_all: whether the second witness sees every row that is looked at, not a sample.
        mark: up to where the source was read before, None if it never was.
        before: what was counted of each table when the transaction began, once it has.
        sieve: the table's rows; rejected ones are noted there.
        conflicts: rows that somebody changed in the target.
        newest: the largest date of change that was read so far.
        target_rows: rows that the target held before, once they were counted.
        touched_before: how many of the rows that may have changed the target held before.
        written: rows inserted or updated so far.
        deleted: rows deleted so far.
        seconds: time by phase so far.
    """

    target: Target
    source: Source
    prepared: Prepared
    run_id: str
    delete_share: float = DELETE_SHARE
    on_progress: OnProgress = lambda _: None
    changed: Changed | None = None
    witness_all: bool = False
    mark: Watermark | None = None
    target_rows: int | None = None
    touched_before: int = 0
    written: int = 0
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    newest: datetime | None = None
    before: Counts | None = None
    sieve: Sieve = field(init=False)
    conflicts: Conflicts = field(init=False)

    def __post_init__(self) -> None:
        """Begin with every row that the survey did not reject."""
        self.sieve = Sieve(self.source, self.landing, self.prepared.contract, self.survey)
        self.conflicts = Conflicts(self.landing)
        if self.changed is not None:
            self.newest = self.changed.newest

    def follow(self, mark: Watermark | None) -> None:
        """Go on from where the source was read before."""
        self.mark = mark
        self.conflicts.follow(self.target, mark.newest if mark else None)
        if mark is not None and self.changed is not None and self.changed.source_rows is None:
            # Counting them all would cost more than what changed.
            self.target_rows = mark.rows

    def see(self, sifted: Sifted) -> None:
        """Note the largest date of change of some rows of the source."""
        self.newest = later(self.newest, sifted, self.landing)

    @property
    def part(self) -> Part | None:
        """What is known of the table where only some of its rows are looked at on purpose."""
        return self.changed.part if self.changed else None

    @property
    def landing(self) -> Landing:
        """The table."""
        return self.prepared.landing

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

    def counter(self, phase: Phase) -> Callable[[Sifted], None]:
        """Count batches of a phase that begins now, and report after each."""
        return counter(self.landing.name, phase, self.survey.rows, self.on_progress)


def later(newest: datetime | None, sifted: Sifted, landing: Landing) -> datetime | None:
    """The larger of a date and all dates of change of some rows."""
    if landing.changed_by is None:
        return newest
    dates = sifted.batch.column(landing.changed_by)
    if not pa.types.is_timestamp(dates.type):
        return newest
    largest: datetime | None = pc.max(dates).as_py()
    found = [date for date in (newest, largest) if date is not None]
    return max(found, default=None)


def counter(
    table: str, phase: Phase, of_rows: int, on_progress: OnProgress
) -> Callable[[Sifted], None]:
    """Count batches of a phase that begins now, and report after each."""
    started, rows, size = time.perf_counter(), 0, 0

    def count(sifted: Sifted) -> None:
        nonlocal rows, size
        rows += sifted.part.rows
        size += sifted.part.bytes
        seconds = time.perf_counter() - started
        on_progress(Progress(table, phase, rows, of_rows, size, seconds))

    return count
