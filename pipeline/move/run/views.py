"""Views of one SQLite source for one run: a copy of all of it, and the pinned live file."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from pipeline.core.locks import private_folder
from pipeline.move.ledger import overrides
from pipeline.move.reading.extract import Source
from pipeline.move.reading.live import LiveSource, pinned
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import BUSY_SECONDS, take_snapshot


class SourceViews:
    """Each view is made when it is first asked for, and is the same until it is released.

    Use it as a context manager, or call ``release`` at the end: what was copied is deleted then.
    """

    def __init__(
        self,
        locate: Callable[[], Path],
        folder: Path,
        *,
        name: str,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """Make no view yet.

        Args:
            locate: finds the live file, whenever a view is made.
            folder: holds the private files of all runs.
            name: tells this run's files from those of others.
            busy_seconds: how long a locked source is waited for.
        """
        self._locate = locate
        self._folder = folder
        self._name = name
        self._busy_seconds = busy_seconds
        self._exit = contextlib.ExitStack()
        self._copy: Source | None = None
        self._live: LiveSource | None = None

    def __enter__(self) -> Self:
        """Release the views at the end of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the views."""
        self.release()

    @property
    def copied(self) -> bool:
        """Whether there is a copy of the whole source."""
        return self._copy is not None

    def copy(self, tables: Sequence[sa.Table], *, target: Target) -> Source:
        """A private copy of the source, with the values that a person has mended.

        Args:
            tables: what will be read.
            target: its ledger knows which values a person has mended.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        if self._copy is None:
            # A copy that fails leaves nothing, so that the next step may try again.
            with contextlib.ExitStack() as opened:
                located = self._locate()
                folder = opened.enter_context(private_folder(self._folder, self._name))
                into, busy = folder / "source.db", self._busy_seconds
                source = Source(take_snapshot(located, into, tables=tables, busy_seconds=busy))
                names = [table.name for table in tables]
                overrides.apply(source, tables, overrides.read(target, names))
                self._copy = source
                self._exit.push(opened.pop_all())
        return self._copy

    def pin(self, tables: Sequence[sa.Table]) -> LiveSource:
        """The live source as it was when it was first asked for; ``release`` ends that.

        Args:
            tables: what will be read.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        if self._live is None:
            with contextlib.ExitStack() as opened:
                located = self._locate()
                folder = opened.enter_context(private_folder(self._folder, f"{self._name}-live"))
                live = pinned(located, folder, tables=tables, busy_seconds=self._busy_seconds)
                self._live = opened.enter_context(live)
                self._exit.push(opened.pop_all())
        return self._live

    def release(self) -> None:
        """Let the source go; who asks next gets a new view."""
        self._copy = self._live = None
        self._exit.close()
