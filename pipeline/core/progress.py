"""How a long move tells that it goes on: events in Dagster's log, a bar in the terminal."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

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

LOG_SECONDS = 2.0
"""A table that takes longer than this says in the log how far it is, this often."""

_watcher: ContextVar[OnProgress | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: OnProgress) -> Iterator[None]:
    """Let a watcher see the progress of every move that runs inside, in this process."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def reporter(log: logging.Logger) -> OnProgress:
    """What a move reports to: the watcher at once, the log now and then."""
    watcher = _watcher.get()
    said = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal said
        if watcher is not None:
            watcher(progress)
        if time.monotonic() - said >= LOG_SECONDS:
            said = time.monotonic()
            log.info(sentence(progress))

    return report


def sentence(progress: Progress) -> str:
    """Rows, bytes and rate in a line."""
    seconds = max(progress.seconds, 1e-3)
    return (
        f"{progress.table}, {progress.phase}: {progress.rows:,} of {progress.of_rows:,} rows,"
        f" {progress.bytes / 2**20:,.1f} MiB, {progress.rows / seconds:,.0f} rows/s,"
        f" {progress.bytes / 2**20 / seconds:,.1f} MiB/s"
    )
