"""Progress of a long move: lines in Dagster's log, a bar in the terminal."""

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
    """Progress of one phase of a move."""

    table: str
    phase: Phase
    rows: int
    of_rows: int
    bytes: int
    seconds: float


OnProgress = Callable[[Progress], None]

LOG_SECONDS = 2.0
"""The interval between progress lines in the log."""

_watcher: ContextVar[OnProgress | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: OnProgress) -> Iterator[None]:
    """Report the progress of every move in this context and process to a watcher."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def reporter(log: logging.Logger) -> OnProgress:
    """Report each step to the watcher, and to the log every ``LOG_SECONDS``."""
    watcher = _watcher.get()
    last_logged = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last_logged
        if watcher is not None:
            watcher(progress)
        if time.monotonic() - last_logged >= LOG_SECONDS:
            last_logged = time.monotonic()
            log.info(sentence(progress))

    return report


def sentence(progress: Progress) -> str:
    """One line with rows, bytes and rates."""
    seconds = max(progress.seconds, 1e-3)
    return (
        f"{progress.table}, {progress.phase}: {progress.rows:,} of {progress.of_rows:,} rows,"
        f" {progress.bytes / 2**20:,.1f} MiB, {progress.rows / seconds:,.0f} rows/s,"
        f" {progress.bytes / 2**20 / seconds:,.1f} MiB/s"
    )
