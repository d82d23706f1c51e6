"""Move all rows of the tables of one run, each in its own transaction, parents first.

Building keys and proving use only one side at a time. Meanwhile the next tables are surveyed, and a
second session fills the next table if the target lacks it. Its keys and proof follow once its
parents are committed.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.progress import OnProgress, Progress, waiting
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.options import MoveOptions
from pipeline.move.ledger import unmanaged_rows
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.transaction import MoveResult, PendingFill, move_table, start_fill
from pipeline.postgres import schema
from pipeline.postgres.target import Target


class FullMover:
    """Alternates between two sessions, with one thread for surveys and one for fills.

    The second session is opened when there is something to fill ahead.

    Attributes:
        idle: the session that is not in a transaction.
    """

    def __init__(
        self,
        source: SourceView,
        target: Target,
        options: MoveOptions,
    ) -> None:
        """Use ``FullMover.over``."""
        self.idle = target
        self._second: Target | None = None
        self._opened = contextlib.ExitStack()
        self._source = source
        self._options = options
        self._surveys = ThreadPoolExecutor(1, thread_name_prefix="survey")
        self._fills = ThreadPoolExecutor(1, thread_name_prefix="fill")
        self._prepared: dict[str, Future[Prepared]] = {}
        self._pending: tuple[str, Future[PendingFill | None]] | None = None
        self._listeners: dict[str, OnProgress] = {}
        self._ended = threading.Event()

    @classmethod
    @contextmanager
    def over(
        cls,
        source: SourceView,
        target: Target,
        options: MoveOptions,
    ) -> Iterator[Self]:
        """Open a mover for one run; unfinished work is rolled back at the end.

        Args:
            target: a session outside a transaction.
        """
        mover = cls(source, target, options)
        try:
            mover.resume(target)
            yield mover
        finally:
            mover._end()

    def suspend(self) -> None:
        """Roll back a pending fill and close the second session."""
        self._ended.set()
        if self._pending is not None:
            (_, ahead), self._pending = self._pending, None
            ahead.cancel()
            with contextlib.suppress(PipelineError, CancelledError):
                pending = ahead.result()
                if pending is not None:
                    pending.undo()
        self._opened.close()

    def resume(self, target: Target) -> None:
        """Go on with a new session; surveys are kept."""
        self.idle, self._second = target, None
        self._ended.clear()

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> MoveResult:
        """Move a table whose parents have already been moved.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """
        if table.name not in self._prepared:
            # Checked before the first table, so that a later table does not stop the run.
            self._require_usable((table, *upcoming))
        for each in (table, *upcoming):
            if each.name not in self._prepared:
                self._prepared[each.name] = self._surveys.submit(
                    prepare, each, self._source, self._options.policies
                )
        self._listeners[table.name] = on_progress
        pending = self._take_pending(table)
        context = pending.context if pending else self._context(self.idle, table)

        def on_filled() -> None:
            if upcoming and self._pending is None:
                ahead = self._fills.submit(self._start_fill, upcoming[0])
                self._pending = upcoming[0].name, ahead

        moved = move_table(context, pending=pending, on_filled=on_filled)
        del self._prepared[table.name]
        return moved

    def _require_usable(self, tables: Sequence[sa.Table]) -> None:
        policies = self._options.policies
        with schema.inspected(self.idle, [table.name for table in tables]):
            states = [
                schema.inspect_for_writing(self.idle, self._source.match(table, policies))
                for table in tables
            ]
        filled = [table for table, state in zip(tables, states, strict=True) if state.rows]
        if filled and not policies.adopt_target:
            unmanaged_rows.require_own(self.idle.rows, filled)
        schema.make_ledger(self.idle)

    def _context(self, session: Target, table: sa.Table) -> MoveContext:
        with waiting(f"{table.name}, reading the source"):
            prepared = self._prepared[table.name].result()
        return MoveContext(session, self._source, prepared, self._options, self._on_progress)

    def _start_fill(self, table: sa.Table) -> PendingFill | None:
        if self._second is None:
            self._second = self._opened.enter_context(self.idle.another())
        return start_fill(self._context(self._second, table))

    def _on_progress(self, progress: Progress) -> None:
        if self._ended.is_set():
            raise PipelineError(
                f"The run ended before {progress.table} was moved", remedy="Run again"
            )
        if progress.table in self._listeners:
            self._listeners[progress.table](progress)

    def _take_pending(self, table: sa.Table) -> PendingFill | None:
        """The pending fill of a table, if any; the two sessions swap their roles."""
        if self._pending is None or self._pending[0] != table.name:
            return None
        (_, ahead), self._pending = self._pending, None
        with waiting(f"{table.name}, load"):
            pending = ahead.result()
        if pending is not None:
            self.idle, self._second = pending.context.target, self.idle
        return pending

    def _end(self) -> None:
        self._ended.set()
        self._surveys.shutdown(cancel_futures=True)
        self._fills.shutdown(cancel_futures=True)
        self.suspend()
