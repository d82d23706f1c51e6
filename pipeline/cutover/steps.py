"""The steps of a cut-over: each changes the state of the migration, with the target's lock held.

The slow part runs while the application continues to write: it compares the target with the source
value by value and evaluates most questions of the gate. Then the source is frozen and the last
changes are moved. If the gate does not open, the source is unfrozen.
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
from pipeline.move.engine import ChangesUnknown
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.run.scope import ChangesOnly, Everything, Scope
from pipeline.move.run.transaction import MoveResult
from pipeline.move.run.views import SourceViews
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking

CUTOVER, STEP = "cutover", "change_state"
"""The names of a migration's state and of the step that changes it in Dagster."""
FINAL = ("close", "rollback")
"""Steps that cannot be undone."""


@dataclass(frozen=True)
class CutoverContext:
    """Both databases and the options of a run.

    Attributes:
        target: the session, which holds the target's lock.
        tables: the tables that move, parents before children.
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
    """The result of a step.

    Attributes:
        answers: the last answers of the gate; empty if it was not evaluated.
        blocked_seconds: how long the application could write to neither database; None if it was
            never blocked or still is.
        caught_up: rows written to the target while the source was frozen.
    """

    state: State
    answers: list[Answer] = field(default_factory=list)
    blocked_seconds: float | None = None
    caught_up: int = 0

    @property
    def open(self) -> bool:
        """Whether every answer is yes."""
        return all(answer.yes for answer in self.answers)


def confirmation(step: str, migration: str) -> str:
    """The confirmation that a run's configuration must contain; empty if none is required."""
    return f"{step} {migration}" if step in FINAL else ""


def freeze(context: CutoverContext, *, outside: Sequence[Answer]) -> Outcome:
    """Go from shadow to frozen if the gate is open; otherwise stay in shadow.

    Args:
        outside: answers that do not come from the databases.

    Raises:
        WrongState: the migration is live or closed.
        PipelineError: a table could not be moved; the source is unfrozen.
    """
    with _frozen(context, outside) as (outcome, _):
        return outcome


def go_live(context: CutoverContext, *, outside: Sequence[Answer]) -> Outcome:
    """Go from shadow or frozen to live if the gate is open; otherwise to shadow.

    Raises:
        WrongState: the migration is live or closed already.
        PipelineError: a table could not be moved; the source is unfrozen.
    """
    with _frozen(context, outside) as (outcome, since):
        if outcome.state == "frozen":
            with context.target.transaction():
                _change_state(context, "live")
            outcome.state, outcome.blocked_seconds = "live", time.time() - since
        return outcome


def unfreeze(context: CutoverContext) -> Outcome:
    """Let the application write to the source again.

    Raises:
        WrongState: the migration is live or closed; use ``rollback`` instead.
    """
    now = states.read(context.target, context.migration).state
    if now not in ("frozen", "shadow"):
        states.require_following(context.target, context.migration)
    context.sources.release()
    freezing.unfreeze(context.path)
    if now == "frozen":
        with context.target.transaction():
            _change_state(context, "shadow")
    return Outcome("shadow")


def close(context: CutoverContext) -> Outcome:
    """Go from live to closed: stop capturing changes. A rollback is no longer possible.

    Raises:
        WrongState: the migration is not live.
    """
    with context.target.transaction():
        _change_state(context, "closed")
        capture.switch_off(context.target, context.tables)
    return Outcome("closed")


def ask(context: CutoverContext) -> list[Answer]:
    """Evaluate the gate, or the conditions of a later rollback if the migration is live.

    Raises:
        PipelineError: a database does not answer.
    """
    live = context.sources.pin(context.tables)
    with context.target.read_only():
        now = states.read(context.target, context.migration).state
        if now == "closed":
            return []
        if now == "live":
            return gate.ask_later(context.target, live, context.tables)
        return gate.ask(context.target, live, context.tables, context.options.policies)


@contextlib.contextmanager
def _frozen(context: CutoverContext, outside: Sequence[Answer]) -> Iterator[tuple[Outcome, float]]:
    """Freeze the source and prove both sides equal; unfreeze it on any failure.

    Yields:
        The outcome, and the time of the freeze in seconds since the epoch.
    """
    now = states.read(context.target, context.migration)
    if now.state not in ("shadow", "frozen"):
        raise WrongState(f"The migration is already {now}", remedy=message("See ", CUTOVER_STATUS))
    if now.state == "shadow":
        answers = _prepare(context, outside)
        if not all(answer.yes for answer in answers):
            yield Outcome("shadow", answers), 0.0
            return
    since = time.time() if now.since is None or now.state == "shadow" else now.since.timestamp()
    try:
        if now.state == "shadow":
            with context.target.transaction():
                _change_state(context, "frozen")
        # Also needed if an earlier run ended between the two steps.
        freezing.freeze(context.path, context.tables)
        context.log("the source is frozen")
        caught_up = _catch_up(context)
        answers = [*outside, *ask(context)]
    except BaseException:
        # After any failure, including an interruption, the application must be able to write.
        _unfreeze_after_failure(context)
        raise
    outcome = Outcome("frozen", answers, caught_up=caught_up)
    if not outcome.open:
        unfreeze(context)
        outcome.state, outcome.blocked_seconds = "shadow", time.time() - since
    yield outcome, since


def _unfreeze_after_failure(context: CutoverContext) -> None:
    """Unfreeze even if the target no longer answers, and report that failure as well.

    The migration is not live: only the interrupted step could have changed its state.
    """
    try:
        context.sources.release()
        freezing.unfreeze(context.path)
        unfreeze(context)
    except PipelineError as error:
        context.log(message("the source may still be frozen; run ", UNFREEZE, ": ", error.message))


def _change_state(context: CutoverContext, state: State) -> None:
    states.change(context.target, context.migration, state, run_id=context.options.run_id)


def _prepare(context: CutoverContext, outside: Sequence[Answer]) -> list[Answer]:
    """The slow part, while the application writes: compare every value, evaluate the gate."""
    if tracking.switch_on(context.path, context.tables):
        context.log("change tracking of the source is on")
    while not _compare(context):
        context.log("new tables are compared again, now that every write to them is captured")
    later = (gate.PROVEN, gate.FROZEN)
    answers = [answer for answer in ask(context) if answer.question not in later]
    context.sources.release()
    return [*outside, *answers]


def _compare(context: CutoverContext) -> bool:
    """Make the target equal to the source; returns whether all tables were captured all along."""
    target = context.target
    with target.transaction():
        schema.make_ledger(target)
        present = [table for table in context.tables if schema.exists(target, table.name)]
        # From here on, every other write to the target is captured.
        capture.switch_on(target, present)
    for moved in _move(context, Everything()):
        context.log(_summary(moved))
    context.sources.release()
    return len(present) == len(context.tables)


def _catch_up(context: CutoverContext) -> int:
    """Move the changes that the application made before the source was frozen."""
    try:
        moves = list(_move(context, ChangesOnly(or_everything=False)))
    except ChangesUnknown as error:
        raise PipelineError(
            f"The last changes cannot be moved separately: {error.why}",
            remedy="Run the same command again; the source is not frozen",
        ) from error
    for moved in moves:
        if moved.checks.failed:
            raise ProofFailed(moved.table, moved.checks)
        if moved.written_rows or moved.deleted_rows:
            context.log(_summary(moved))
    return sum(moved.written_rows + moved.deleted_rows for moved in moves)


def _move(context: CutoverContext, scope: Scope) -> Iterator[MoveResult]:
    """Move all tables; the second witness checks every row."""
    options = replace(context.options, witness_all=True)
    return engine.run(context.tables, context.sources, context.target, PUBLIC, scope, options)


def _summary(moved: MoveResult) -> str:
    return (
        f"{moved.table}: {moved.strategy}, {moved.written_rows:,} rows written,"
        f" {moved.deleted_rows:,} deleted, {moved.target_rows:,} proven"
    )
