"""Moves the tables of one run, each in its own transaction, parents first.

Building keys and proving keep one side busy at a time. Meanwhile the next tables are surveyed, and
the next one is filled by a second session, if the target lacks it. Its keys and its proof wait for
its turn, when its parents have been committed.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.progress import OnProgress, Progress
from pipeline.mapping.table_mapping import match
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.options import MoveOptions
from pipeline.move.ledger import unmanaged_rows
from pipeline.move.reading.extract import Source
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.run.transaction import Move, PendingFill, move_table, start_fill
from pipeline.postgres import schema
from pipeline.postgres.target import Target


class Mover:
    """Two sessions that take turns, and a thread for each thing that is done ahead.

    Attributes:
        idle: the session that is not in a transaction.
    """

    def __init__(
        self,
        source: Source,
        sessions: tuple[Target, Target],
        options: MoveOptions,
    ) -> None:
        """Use ``Mover.over``."""
        self.idle, self._second = sessions
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
        source: Source,
        target: Target,
        options: MoveOptions,
    ) -> Iterator[Self]:
        """A mover for one run; what it has begun and not moved is undone at the end.

        Args:
            source: the snapshot.
            target: a session in no transaction.
            options: what holds for every table of the run.
        """
        with target.another() as second:
            mover = cls(source, (target, second), options)
            try:
                yield mover
            finally:
                mover._end()

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> Move:
        """Move a table whose parents have moved before.

        Args:
            table: the table that moves now.
            upcoming: tables that move later in this run.
            on_progress: told after every batch of this table.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """
        if table.name not in self._prepared:
            # Before the first table of the run: a later one must not stop it half way.
            self._require_usable((table, *upcoming))
        for each in (table, *upcoming):
            if each.name not in self._prepared:
                self._prepared[each.name] = self._surveys.submit(
                    prepare, each, self._source, self._options.policies
                )
        self._listeners[table.name] = on_progress
        pending = self._take_over(table)
        context = pending.context if pending else self._work(self.idle, table)

        def on_filled() -> None:
            if upcoming and self._pending is None:
                ahead = self._fills.submit(self._begin, self._second, upcoming[0])
                self._pending = upcoming[0].name, ahead

        moved = move_table(context, pending=pending, on_filled=on_filled)
        del self._prepared[table.name]
        return moved

    def _require_usable(self, tables: Sequence[sa.Table]) -> None:
        for table in tables:
            found = self._source.columns(table.name)
            schema.inspect_for_writing(self.idle, match(table, found, self._options.policies))
        if not self._options.policies.adopt_target:
            unmanaged_rows.require_own(self.idle.rows, tables)

    def _work(self, session: Target, table: sa.Table) -> MoveContext:
        prepared = self._prepared[table.name].result()
        return MoveContext(session, self._source, prepared, self._options, self._on_progress)

    def _begin(self, session: Target, table: sa.Table) -> PendingFill | None:
        return start_fill(self._work(session, table))

    def _on_progress(self, progress: Progress) -> None:
        if self._ended.is_set():
            raise PipelineError(f"{progress.table} was not needed any more", remedy="Run again")
        if progress.table in self._listeners:
            self._listeners[progress.table](progress)

    def _take_over(self, table: sa.Table) -> PendingFill | None:
        """What was begun of this table; its session then is the one that moves."""
        if self._pending is None or self._pending[0] != table.name:
            return None
        (_, ahead), self._pending = self._pending, None
        pending = ahead.result()
        if pending is not None:
            self.idle, self._second = self._second, self.idle
        return pending

    def _end(self) -> None:
        self._ended.set()
        self._surveys.shutdown(cancel_futures=True)
        self._fills.shutdown(cancel_futures=True)
        if self._pending is not None:
            with contextlib.suppress(PipelineError, CancelledError):
                pending = self._pending[1].result()
                if pending is not None:
                    pending.undo()
