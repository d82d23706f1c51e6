"""The one door to the engine: tables of a migration move from their source into their target.

A run holds the target's lock, has a view of the source (a copy, or the pinned live file) with the
values that a person has mended, and moves one table after another, parents first. ``run`` moves all
of them; who moves a table at a time, as a step of Dagster does, opens an ``Engine``.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.place import Place
from pipeline.core.progress import OnProgress
from pipeline.move.context.options import MoveOptions
from pipeline.move.run.mover import Mover
from pipeline.move.run.scope import Changes, Scope, Subset, family
from pipeline.move.run.subset import SubsetMover
from pipeline.move.run.sync import Syncer, why_whole
from pipeline.move.run.transaction import Move, TableMover
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target


class NotKnown(PipelineError):
    """It cannot be known what changed, so every value has to be compared.

    Attributes:
        why: the reason, for people.
    """

    def __init__(self, why: str) -> None:
        """Say why."""
        super().__init__(f"It is not enough to sync: {why}", remedy="Sync in full")
        self.why = why


@dataclass(frozen=True)
class Engine:
    """Moves tables of one run, each in its own transaction."""

    _mover: TableMover
    _source: SourceViews
    _waiting: list[sa.Table]

    @property
    def idle(self) -> Target:
        """A session that is in no transaction between two moves."""
        return self._mover.idle

    def move(self, table: sa.Table, *, on_progress: OnProgress = lambda _: None) -> Move:
        """Move a table whose parents have moved before.

        Args:
            table: one of those that the engine was opened for.
            on_progress: called after every batch of this table.

        Raises:
            PipelineError: nothing was changed.
        """
        if table in self._waiting:
            self._waiting.remove(table)
        moved = self._mover.move(table, upcoming=list(self._waiting), on_progress=on_progress)
        if not self._waiting and not self._source.copied:
            # While the live file is pinned, an application without WAL cannot commit.
            self._source.release()
        return moved


def run(
    tables: Sequence[sa.Table],
    source: SourceViews,
    target: Target,
    place: Place,
    scope: Scope,
    options: MoveOptions,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Iterator[Move]:
    """Move tables of one migration, parents first; what has moved stays if a later one fails.

    Raises:
        PipelineError: source or target is not usable, or a table could not be moved and is as it
            was before.
    """
    with opened(tables, source, target, place, scope, options, on_progress=on_progress) as engine:
        for table in tables:
            yield engine.move(table, on_progress=on_progress)


@contextlib.contextmanager
def opened(
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
    """An engine for one run; what it has begun and not moved is undone at the end.

    Args:
        tables: those of one migration that move.
        source: views of their source.
        target: a session in no transaction.
        place: what is locked.
        scope: which rows move.
        options: what holds for every table.
        on_progress: called after every batch while both sides are compared for changes.
        log: gets the reason why everything moves where only changes were asked for.

    Raises:
        LockedError: another run holds the target.
        NotKnown: changes alone cannot be moved, and the scope says not to move everything.
        PipelineError: source or target is not usable; nothing was changed.
    """
    with contextlib.ExitStack() as stack:
        # First the lock, then the view: who waits for another run must not move an older one.
        stack.enter_context(target.lock(place))
        mover: TableMover | None = None
        if isinstance(scope, Subset):
            mover = SubsetMover(source.pin(family(tables)), target, scope, options)
        elif isinstance(scope, Changes) and not source.copied:
            try:
                mover = _syncer(tables, source, target, scope, options, on_progress)
            except NotKnown as error:
                if not scope.or_everything:
                    raise
                log(f"Every value is looked at, because {error.why}.")
                source.release()
        if mover is None:
            copy = source.copy(tables, target=target)
            mover = stack.enter_context(Mover.over(copy, target, options))
        yield Engine(mover, source, list(tables))


def _syncer(
    tables: Sequence[sa.Table],
    source: SourceViews,
    target: Target,
    scope: Changes,
    options: MoveOptions,
    on_progress: OnProgress,
) -> Syncer:
    """What moves changes alone.

    Raises:
        NotKnown: these are not enough.
    """
    live = source.pin(tables)
    syncer = Syncer(live, target, options, retry_rejected=scope.retry_rejected)
    why = why_whole(tables, live=live, target=target, policies=options.policies)
    why = why or syncer.look(tables, on_progress=on_progress)
    if why is not None:
        raise NotKnown(why)
    return syncer
