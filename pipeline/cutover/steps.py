"""The steps of a cut-over, each from one state to the next, with the target's lock held.

What takes long is done while the application goes on writing: the target is compared with the
source value by value, and whatever can be asked already is asked. Only then the source is frozen,
and what was written meanwhile moves; the gate opens or the source is unfrozen.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.messages import CUTOVER_STATUS, UNFREEZE, Text, message
from pipeline.core.place import PUBLIC
from pipeline.cutover import capture, freezing, gate, states
from pipeline.cutover.gate import Answer
from pipeline.cutover.states import State, WrongState
from pipeline.move import engine
from pipeline.move.context.options import MoveOptions
from pipeline.move.engine import NotKnown
from pipeline.move.run.scope import Changes, Everything, Scope
from pipeline.move.run.transaction import Move
from pipeline.move.run.views import SourceViews
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking

CUTOVER, STEP = "cutover", "change_state"
"""How Dagster calls the state of a migration, and the step that changes it."""
FINAL = ("close", "rollback")
"""Steps that cannot be undone."""


@dataclass(frozen=True)
class Site:
    """Both databases, and how a run treats them.

    Attributes:
        path: the live source.
        sources: views of it.
        target: the session, which holds the target's lock.
        migration: the name by which the ledger knows what is cut over.
        tables: those that move, parents before children.
        options: what holds for every table of the run.
        log: told what happens.
    """

    path: Path
    sources: SourceViews
    target: Target
    migration: str
    tables: Sequence[sa.Table]
    options: MoveOptions
    log: Callable[[Text], None]


@dataclass
class Outcome:
    """What a step came to.

    Attributes:
        state: the state it ended in.
        answers: what the gate was told at last; empty where it was not asked.
        blocked_seconds: how long nobody could write anywhere; None where that goes on, or was
            never so.
        caught_up: rows that were written to the target while the source was frozen.
    """

    state: State
    answers: list[Answer] = field(default_factory=list)
    blocked_seconds: float | None = None
    caught_up: int = 0

    @property
    def open(self) -> bool:
        """Whether every answer was yes."""
        return all(answer.yes for answer in self.answers)


def confirmation(step: str, migration: str) -> str:
    """What a run's configuration has to confirm a step with; empty where nothing is asked."""
    return f"{step} {migration}" if step in FINAL else ""


def freeze(site: Site, *, outside: Sequence[Answer]) -> Outcome:
    """From shadow to frozen, and there only if the gate is open; otherwise back.

    Args:
        site: both databases.
        outside: answers that are not for the databases to give.

    Raises:
        WrongState: the migration is live or closed.
        PipelineError: a table could not be moved; the source is unfrozen.
    """
    with _frozen(site, outside) as (outcome, _):
        return outcome


def go_live(site: Site, *, outside: Sequence[Answer]) -> Outcome:
    """From shadow or frozen to live, if the gate is open; otherwise to shadow.

    Raises:
        WrongState: the migration is live or closed already.
        PipelineError: a table could not be moved; the source is unfrozen.
    """
    with _frozen(site, outside) as (outcome, since):
        if outcome.state == "frozen":
            with site.target.transaction():
                states.change(site.target, site.migration, "live", run_id=site.options.run_id)
            outcome.state, outcome.blocked_seconds = "live", time.time() - since
        return outcome


def unfreeze(site: Site) -> Outcome:
    """Let the application write the source again.

    Raises:
        WrongState: the migration is live or closed; ``rollback`` is the way back.
    """
    now = states.read(site.target, site.migration).state
    if now not in ("frozen", "shadow"):
        states.require_following(site.target, site.migration)
    site.sources.release()
    freezing.unfreeze(site.path)
    if now == "frozen":
        with site.target.transaction():
            states.change(site.target, site.migration, "shadow", run_id=site.options.run_id)
    return Outcome("shadow")


def close(site: Site) -> Outcome:
    """From live to closed: nothing is captured any more, and there is no way back.

    Raises:
        WrongState: the migration is not live.
    """
    with site.target.transaction():
        states.change(site.target, site.migration, "closed", run_id=site.options.run_id)
        capture.switch_off(site.target, site.tables)
    return Outcome("closed")


def ask(site: Site) -> list[Answer]:
    """Ask both databases what the gate demands of them, or what must hold while it is live.

    Raises:
        PipelineError: one of them does not answer.
    """
    live = site.sources.pin(site.tables)
    with site.target.read_only():
        now = states.read(site.target, site.migration).state
        if now == "closed":
            return []
        if now == "live":
            return gate.ask_later(site.target, live, site.tables)
        return gate.ask(site.target, live, site.tables, site.options.policies)


@contextlib.contextmanager
def _frozen(site: Site, outside: Sequence[Answer]) -> Iterator[tuple[Outcome, float]]:
    """The source frozen and proven equal, with the time since when; unfrozen on any failure."""
    now = states.read(site.target, site.migration)
    if now.state not in ("shadow", "frozen"):
        raise WrongState(f"The migration is {now} already", remedy=message("See ", CUTOVER_STATUS))
    if now.state == "shadow":
        answers = _prepare(site, outside)
        if not all(answer.yes for answer in answers):
            yield Outcome("shadow", answers), 0.0
            return
    since = time.time() if now.since is None or now.state == "shadow" else now.since.timestamp()
    try:
        if now.state == "shadow":
            with site.target.transaction():
                states.change(site.target, site.migration, "frozen", run_id=site.options.run_id)
        # Also where a run before this one ended between the two.
        freezing.freeze(site.path, site.tables)
        site.log("the source is frozen")
        caught_up = _catch_up(site)
        answers = [*outside, *ask(site)]
    except BaseException:
        # Whatever it is, interruption included, the application must be able to write somewhere.
        _unfreeze_at_last(site)
        raise
    outcome = Outcome("frozen", answers, caught_up=caught_up)
    if not outcome.open:
        unfreeze(site)
        outcome.state, outcome.blocked_seconds = "shadow", time.time() - since
    yield outcome, since


def _unfreeze_at_last(site: Site) -> None:
    """Unfreeze after a failure, even if the target no longer answers; report that failure too.

    It was not live: this very step alone could have made it so.
    """
    try:
        site.sources.release()
        freezing.unfreeze(site.path)
        unfreeze(site)
    except PipelineError as error:
        site.log(message("run ", UNFREEZE, ": ", error.message))


def _prepare(site: Site, outside: Sequence[Answer]) -> list[Answer]:
    """What takes long, while the application writes: compare every value, and ask what can be."""
    if tracking.switch_on(site.path, site.tables):
        site.log("the source tracks its changes from now on")
    while not _compare(site):
        site.log("tables that were just made are compared again, now that nobody writes unseen")
    later = (gate.PROVEN, gate.FROZEN)
    asked = [answer for answer in ask(site) if answer.question not in later]
    site.sources.release()
    return [*outside, *asked]


def _compare(site: Site) -> bool:
    """Make the target equal to the source; whether every table was watched from the start."""
    target = site.target
    with target.transaction():
        schema.make_ledger(target)
        present = [table for table in site.tables if schema.exists(target, table.name)]
        # From here on nobody else can write to the target unseen.
        capture.switch_on(target, present)
    for moved in _move(site, Everything()):
        site.log(_told(moved))
    site.sources.release()
    return len(present) == len(site.tables)


def _catch_up(site: Site) -> int:
    """Move what the application wrote until the source was frozen."""
    try:
        moves = list(_move(site, Changes(or_everything=False)))
    except NotKnown as error:
        raise PipelineError(
            f"The last changes cannot be moved alone: {error.why}",
            remedy="Run the same command again; the source is not frozen",
        ) from error
    for moved in moves:
        if moved.written_rows or moved.deleted_rows:
            site.log(_told(moved))
    return sum(moved.written_rows + moved.deleted_rows for moved in moves)


def _move(site: Site, scope: Scope) -> Iterator[Move]:
    """Move all tables; the second witness sees every row."""
    options = replace(site.options, witness_all=True)
    return engine.run(site.tables, site.sources, site.target, PUBLIC, scope, options)


def _told(moved: Move) -> str:
    return (
        f"{moved.table}: {moved.strategy}, {moved.written_rows:,} rows written,"
        f" {moved.deleted_rows:,} deleted, {moved.target_rows:,} proven"
    )
