"""The entry point of the engine, which moves tables of a migration from the source to the target.

A run holds the target's lock, opens a view of the source (a copy, or the pinned live file) with all
overrides applied, and moves one table after another, parents first. ``run`` moves all tables; an
``Engine`` moves one table at a time, as the steps of Dagster do.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.place import Place
from pipeline.core.progress import OnProgress
from pipeline.move.context.options import MoveOptions
from pipeline.move.ledger import watermarks
from pipeline.move.run import sync
from pipeline.move.run.mover import FullMover
from pipeline.move.run.scope import ChangesOnly, Scope, Subset, family
from pipeline.move.run.subset import SubsetMover
from pipeline.move.run.sync import Syncer
from pipeline.move.run.transaction import CommitLost, MoveResult
from pipeline.move.run.views import SourceViews
from pipeline.postgres import relations, schema
from pipeline.postgres.target import Target


class ChangesUnknown(PipelineError):
    """The changed rows cannot be determined, so every value has to be compared.

    Attributes:
        why: the reason, for messages.
    """

    def __init__(self, why: str) -> None:
        """Put the reason into the message."""
        super().__init__(f"A sync of changes is not possible: {why}", remedy="Run a full sync")
        self.why = why


class TableMover(Protocol):
    """Moves the tables of a run one after the other.

    Attributes:
        idle: a session that is not in a transaction between two moves.
    """

    idle: Target

    def suspend(self) -> None:
        """Roll back unfinished work, because the connection was lost."""

    def resume(self, target: Target) -> None:
        """Continue in a new session."""

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> MoveResult:
        """Move a table whose parents have already been moved; ``upcoming`` tables move later.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """


@dataclass
class Engine:
    """Moves tables of one run, each in its own transaction."""

    _mover: TableMover
    _source: SourceViews
    _waiting: list[sa.Table]
    _run_id: str
    _last: MoveResult | None = None
    _resumed: bool = False

    @property
    def idle(self) -> Target:
        """A session that is not in a transaction between two moves."""
        return self._mover.idle

    def move(self, table: sa.Table, *, on_progress: OnProgress = lambda _: None) -> MoveResult:
        """Move a table whose parents have already been moved.

        A table that was committed just before the connection was lost is not moved again.

        Raises:
            PipelineError: nothing was changed.
            CommitLost: whether the table was moved is unknown; ``resume``, then call this again.
        """
        if table in self._waiting:
            self._waiting.remove(table)
        moved = self._committed(table)
        if moved is None:
            try:
                moved = self._mover.move(
                    table, upcoming=list(self._waiting), on_progress=on_progress
                )
            except CommitLost as lost:
                self._last = lost.move
                raise
        self._last, self._resumed = moved, False
        if not self._waiting and not self._source.copied:
            # While the live file is pinned, an application without WAL cannot commit.
            self._source.release()
        return moved

    def suspend(self) -> None:
        """Roll back unfinished work after the connection was lost, before sessions are closed."""
        self._mover.suspend()

    def resume(self, target: Target) -> None:
        """Continue in a new session, which has the run's lock, with the same view of the source."""
        self._mover.resume(target)
        self._resumed = True

    def _committed(self, table: sa.Table) -> MoveResult | None:
        """The result of the last move if it was of this table and its answer was lost."""
        last = self._last if self._resumed else None
        if last is None or last.table != table.name:
            return None
        known = watermarks.is_committed(self.idle, table.name, run_id=self._run_id)
        return last if known else None


def run(
    tables: Sequence[sa.Table],
    source: SourceViews,
    target: Target,
    place: Place,
    scope: Scope,
    options: MoveOptions,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Iterator[MoveResult]:
    """Move tables of one migration, parents first; moved tables stay if a later one fails.

    Raises:
        PipelineError: source or target is not usable, or a table could not be moved; that table is
            unchanged.
    """
    with open_engine(
        tables, source, target, place, scope, options, on_progress=on_progress
    ) as engine:
        for table in tables:
            yield engine.move(table, on_progress=on_progress)


@contextlib.contextmanager
def open_engine(
    tables: Sequence[sa.Table],
    source: SourceViews,
    target: Target,
    place: Place,
    scope: Scope,
    options: MoveOptions,
    *,
    on_progress: OnProgress = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[Engine]:
    """Open an engine for one run; unfinished work is rolled back at the end.

    Args:
        target: a session outside a transaction.
        on_progress: called after every batch while both sides are compared for changes.
        log: receives the reason if every value is compared although only changes were requested.

    Raises:
        LockedError: another run holds the target.
        ChangesUnknown: changes cannot be determined, and the scope does not allow a full move.
        PipelineError: source or target is not usable; nothing was changed.
    """
    with contextlib.ExitStack() as stack:
        # First the lock, then the view: after waiting for the lock, the view must be current.
        stack.enter_context(target.lock(place))
        mover: TableMover | None = None
        if isinstance(scope, Subset):
            live = source.pin(family(tables))
            live.target_types = relations.column_types(
                target, [table.name for table in family(tables)]
            )
            mover = SubsetMover(live, target, scope, options)
        elif isinstance(scope, ChangesOnly) and not source.copied:
            try:
                mover = _syncer(tables, source, target, scope, options, on_progress)
            except ChangesUnknown as error:
                if not scope.or_everything:
                    raise
                log(f"Every value is compared because {error.why}.")
                source.release()
        if mover is None:
            copy = source.copy(tables, target=target, policies=options.policies)
            mover = stack.enter_context(FullMover.over(copy, target, options))
        yield Engine(mover, source, list(tables), options.run_id)


def _syncer(
    tables: Sequence[sa.Table],
    source: SourceViews,
    target: Target,
    scope: ChangesOnly,
    options: MoveOptions,
    on_progress: OnProgress,
) -> Syncer:
    """The mover of changes.

    Raises:
        ChangesUnknown: the changes cannot be determined.
    """
    live, policies = source.pin(tables), options.policies
    syncer = Syncer(live, target, options, retry_rejected=scope.retry_rejected)
    names = [table.name for table in tables]
    with target.prefetched(schema.ledger_question(), relations.column_types_question(names)):
        schema.make_ledger(target)
        live.target_types = relations.column_types(target, names)
    mappings = [live.match(table, policies) for table in tables]
    with target.prefetched(*(asked for each in mappings for asked in sync.questions(each))):
        why = sync.reason_for_full_comparison(tables, live=live, target=target, policies=policies)
        why = why or syncer.find_changes(tables, on_progress=on_progress)
    if why is not None:
        raise ChangesUnknown(why)
    return syncer
