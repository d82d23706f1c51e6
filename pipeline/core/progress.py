"""Progress of a long move, and what it waits for: lines in Dagster's log, a bar in the terminal.

What may take long is done within ``waiting``, which names it before it begins; nobody is asked how
far it is. A display shows the name and the time since. ``LongWaits`` writes one line when a wait
lasts long, for a log.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol, Self

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

LOG_WAIT_SECONDS = 5.0
"""How long a wait lasts before the log names it."""

_TICK_SECONDS = 0.5


class Listener(Protocol):
    """Receives what the current context waits for."""

    def waits(self, what: str | None) -> None:
        """Called when the current wait changes; None when nothing is awaited."""


class Watcher(Listener, Protocol):
    """Shows progress while it is made."""

    def __call__(self, progress: Progress, /) -> None:
        """A batch was processed."""

    def note(self, sentence: str) -> None:
        """Something happened that explains a delay."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_log: ContextVar[Listener | None] = ContextVar("log", default=None)
_waits: ContextVar[tuple[str, ...]] = ContextVar("waits", default=())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Name what a block waits for; a wait within another one is shown after it."""
    token = _waits.set((*_waits.get(), what))
    _show_waits()
    try:
        yield
    finally:
        _waits.reset(token)
        _show_waits()


def _show_waits() -> None:
    now = ": ".join(_waits.get()) or None
    for listener in (_watcher.get(), _log.get()):
        if listener is not None:
            listener.waits(now)


def note(sentence: str) -> None:
    """Show a sentence that explains a delay to the watcher, if any."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.note(sentence)


class LongWaits:
    """Writes one line for each wait that lasts long; used as a context manager."""

    def __init__(self, write: Callable[[str], None], *, seconds: float) -> None:
        """Start no thread yet.

        Args:
            write: is called from another thread.
            seconds: how long a wait lasts before its line is written.
        """
        self._write = write
        self._seconds = seconds
        self._current: tuple[str | None, float] = (None, 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="long waits", daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def waits(self, what: str | None) -> None:
        """Something new is waited for."""
        self._current = (what, time.monotonic())

    def _tick(self) -> None:
        written: tuple[str | None, float] | None = None
        while not self._ended.wait(min(_TICK_SECONDS, self._seconds)):
            what, since = current = self._current
            if what is not None and current is not written:
                seconds = time.monotonic() - since
                if seconds >= self._seconds:
                    written = current
                    self._write(f"Waiting for {seconds:.0f} s: {what}")


@contextmanager
def logged_to(log: logging.Logger) -> Iterator[None]:
    """Log what a block waits for, once it has waited for ``LOG_WAIT_SECONDS``."""
    with LongWaits(log.info, seconds=LOG_WAIT_SECONDS) as long_waits:
        token = _log.set(long_waits)
        try:
            yield
        finally:
            _log.reset(token)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
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
