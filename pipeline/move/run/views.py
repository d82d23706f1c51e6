"""Views of one SQLite source for one run: a full copy, and the pinned live file."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import sqlalchemy as sa

from pipeline.core.locks import private_folder
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.progress import waiting
from pipeline.move.ledger import overrides
from pipeline.move.reading.pinned_source import PinnedSource, pinned
from pipeline.move.reading.source_view import SourceView
from pipeline.postgres import relations
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import BUSY_SECONDS, take_snapshot
from pipeline.sqlite.tables import OtherTable, others


class SourceViews:
    """Each view is opened on first use and stays the same until it is released.

    Use it as a context manager, or call ``release`` at the end, which deletes the copies.
    """

    def __init__(
        self,
        locate: Callable[[], Path],
        folder: Path,
        *,
        name: str,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """Open no view yet.

        Args:
            locate: finds the live file whenever a view is opened.
            folder: for the private files of all runs.
            name: unique name for this run's files.
            busy_seconds: how long to wait for a locked source.
        """
        self._locate = locate
        self._folder = folder
        self._name = name
        self._busy_seconds = busy_seconds
        self._exit = contextlib.ExitStack()
        self._copy: SourceView | None = None
        self._live: PinnedSource | None = None

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

    def copy(
        self, tables: Sequence[sa.Table], *, target: Target, policies: Policies = DEFAULT
    ) -> SourceView:
        """A private copy of the source, with the overrides from the target's ledger applied.

        Raises:
            SourceError: the file cannot be read; nothing was changed.
        """
        if self._copy is None:
            # A failed copy leaves no files, so that the next step can try again.
            names = [table.name for table in tables]
            # Before the copy: a connection that is lost meanwhile does not make it useless.
            with target.prefetched(relations.column_types_question(names)):
                known_overrides = overrides.read(target, names)
                types = relations.column_types(target, names)
            with contextlib.ExitStack() as opened:
                located = self._locate()
                folder = opened.enter_context(private_folder(self._folder, self._name))
                into, busy = folder / "source.db", self._busy_seconds
                with waiting(f"copying {located}"):
                    copied = take_snapshot(located, into, tables=tables, busy_seconds=busy)
                source = SourceView(copied, target_types=types)
                overrides.apply(source, tables, known_overrides, policies)
                self._copy = source
                self._exit.push(opened.pop_all())
        return self._copy

    def pin(self, tables: Sequence[sa.Table]) -> PinnedSource:
        """The live source, pinned at one point in time until ``release``.

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

    def other_tables(
        self, tables: Sequence[sa.Table], *, stays: Iterable[str], count: bool = False
    ) -> list[OtherTable]:
        """Tables of the open view that are not declared; none if no view is open."""
        source = self._live or self._copy
        if source is None:
            return []
        with source.sqlite() as connection:
            return others(connection, tables, stays=stays, schema=source.schema, count=count)

    def release(self) -> None:
        """Close all views; the next use opens a new one."""
        self._copy = self._live = None
        self._exit.close()
