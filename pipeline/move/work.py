"""One move under way: what its phases share, and how it tells how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pipeline.move.extract import Source, Survey
from pipeline.move.landing import Landing
from pipeline.move.prepare import Prepared
from pipeline.move.sift import Sieve, Sifted
from pipeline.move.target import Target

DELETE_SHARE = 0.25
"""A move may delete this share of a table's rows; more looks like a wrong source."""

Phase = Literal["load", "compare", "prove"]


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


@dataclass
class Work:
    """What the phases of one move share.

    Attributes:
        target: the session, inside the move's transaction.
        source: the snapshot.
        prepared: the table, matched and surveyed.
        run_id: the run that moves.
        delete_share: the share of the target's rows that may be deleted.
        on_progress: told after every batch; what it raises ends the move.
        sieve: the table's rows; rejected ones are noted there.
        target_rows: rows that the target held before, once they were counted.
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
    target_rows: int | None = None
    written: int = 0
    deleted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sieve: Sieve = field(init=False)

    def __post_init__(self) -> None:
        """Begin with every row that the survey did not reject."""
        self.sieve = Sieve(self.source, self.landing, self.prepared.contract, self.survey)

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
