"""Run a copy: each unit in one transaction, which commits only what was proven.

Two sessions take the units in turn, so that one table is filled while the server builds the keys of
another. A unit whose connection is lost is repeated in a new session; what was committed stays.
"""

import contextlib
import contextvars
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

from pipeline.copy import views
from pipeline.copy.expressions.trial import Trials
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.moving import difference, positions, table
from pipeline.copy.moving.difference import Copied, Reference
from pipeline.copy.moving.table import Moved
from pipeline.copy.plan import CopyPlan
from pipeline.copy.sessions import Session
from pipeline.copy.target import extras, keys, recording, states
from pipeline.copy.target.extras import LeftOut
from pipeline.copy.target.layout import PUBLIC, CopiedTable
from pipeline.copy.target.states import TableState
from pipeline.core.errors import LockedError, PipelineError, TargetError, Transient
from pipeline.core.place import PUBLIC as PUBLIC_PLACE
from pipeline.core.place import Place
from pipeline.core.progress import note, waiting
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.move.ledger import quarantine
from pipeline.postgres import schema
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_SESSIONS = 2
_ATTEMPTS = 5
_PAUSE_SECONDS = 2.0
OnTable = Callable[[TableResult], None]


@dataclass
class _Run:
    """The state that the sessions of a run share."""

    plan: CopyPlan
    options: CopyOptions
    states: dict[str, TableState]
    on_table: OnTable
    results: dict[str, TableResult] = field(default_factory=dict)
    made: dict[str, CopiedTable] = field(default_factory=dict)
    ended: dict[str, threading.Event] = field(default_factory=dict)
    postponed: dict[str, list[Reference]] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    error: PipelineError | None = None
    retried: bool = False

    @cached_property
    def copied(self) -> Copied:
        """What the copy makes."""
        tables = self.plan.tables
        return Copied(
            {(each.schema, each.name): each.label for each in tables.values()},
            frozenset(
                (tables[name].schema, tables[name].name, extra.made)
                for name, planned in self.plan.extras.items()
                for extra in planned.references
                if extra.made is not None
            ),
            {
                tables[name].label: tuple(each.made for each in planned.own if each.made)
                for name, planned in self.plan.extras.items()
            },
        )

    def stop(self) -> None:
        """Begin no further unit, and let no session wait for another one."""
        self.stopped.set()
        for event in self.ended.values():
            event.set()


def run(
    plan: CopyPlan,
    connect: Callable[[], contextlib.AbstractContextManager[Target]],
    options: CopyOptions,
    *,
    shown: str,
    on_table: OnTable = lambda _: None,
) -> CopyResult:
    """Copy all tables of a plan.

    Args:
        connect: opens a session with the target.
        shown: the name of the target in messages.
        on_table: called when a table has ended.

    Raises:
        PipelineError: the target cannot be used; nothing was changed.
    """
    started = time.perf_counter()
    with connect() as target, target.lock(place_of(options.schema)):
        present = _prepare(target, plan, options)
        running = _Run(plan, options, present, on_table)
        running.ended = {name: threading.Event() for name in plan.tables}
        again = any(state.rules is not None for state in present.values())
        gone = states.vanished(target, plan.tables, options.schema) if again else []
        with waiting("copying the tables"):
            _run_units(running, target, sessions=1 if again else _SESSIONS)
        made: list[str] = []
        left: list[LeftOut] = []
        if running.error is not None:
            _fail(running, [n for n in plan.tables if n not in running.results], running.error)
        elif not options.verify:
            with contextlib.ExitStack() as opened:
                # The first session may be lost.
                used = opened.enter_context(target.another()) if running.retried else target
                made, left = views.make_all(used, plan, running.made)
    return CopyResult(
        options.run_id,
        plan.source.source,
        shown,
        tuple(running.results[name] for name in plan.tables if name in running.results),
        (*plan.left, *gone, *left),
        plan.behind,
        tuple(made),
        hints=tuple(plan.hints),
        seconds=time.perf_counter() - started,
    )


def place_of(name: str) -> Place:
    """The schema of a target as a place that one run at a time may write."""
    if name == PUBLIC:
        return PUBLIC_PLACE
    digest = hashlib.sha256(name.encode()).digest()
    return Place(name, int.from_bytes(digest[:7], "big"))


def _prepare(target: Target, plan: CopyPlan, options: CopyOptions) -> dict[str, TableState]:
    """Check the target, and make the schema and the ledger."""
    present = states.read(target, plan.tables)
    states.require_own(plan.tables, present)
    if not options.verify:
        schema.make_ledger(target)
        target.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(options.schema)}")
        _require_right(target, options.schema)
    return present


def _require_right(target: Target, name: str) -> None:
    """Refuse a schema in which this user may create no tables; each table would fail."""
    ((allowed, user),) = target.rows(
        "SELECT has_schema_privilege($1, 'CREATE'), current_user::text", (name,)
    )
    if not allowed:
        raise TargetError(
            f"The user {user} may not create tables in the schema {name}",
            remedy=f"Execute GRANT CREATE ON SCHEMA {quoted(name)} TO {quoted(user)}, or name"
            " another schema with --schema",
        )


def _run_units(running: _Run, target: Target, *, sessions: int) -> None:
    waiting, turn = list(running.plan.units), threading.Lock()

    def units() -> Iterator[tuple[str, ...]]:
        while not running.stopped.is_set():
            with turn:
                if not waiting:
                    return
                unit = waiting.pop(0)
            yield unit

    def work(first: Target | None) -> None:
        try:
            with contextlib.ExitStack() as opened:
                try:
                    used = first or opened.enter_context(target.another())
                except TargetError as error:
                    # The first session moves all units.
                    note(f"{error.problem}; going on with one session")
                    return
                place = None if first is None else place_of(running.options.schema)
                session = Session(used, opened, place=place)
                for unit in units():
                    _with_retries(running, session, unit)
        except BaseException:
            running.stop()
            raise

    with ThreadPoolExecutor(sessions, thread_name_prefix="copy") as pool:
        context = contextvars.copy_context
        futures = [pool.submit(context().run, work, target)]
        enough = min(sessions, len(running.plan.units))
        futures += [pool.submit(context().run, work, None) for _ in range(1, enough)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            running.stop()
            raise


def _with_retries(running: _Run, session: Session, unit: tuple[str, ...]) -> None:
    """Move a unit; a lost connection is opened again."""
    labels = frozenset(each.label for each in running.plan.tables.values())
    lost = False
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if lost:
                session.renew(running.options.run_id, labels)
            _move_unit(running, session.target, unit)
            break
        except Transient as error:
            if attempt == _ATTEMPTS:
                _end(running, unit, error)
                return
            running.retried = lost = True
            note(f"{error.problem}; trying again")
            time.sleep(_PAUSE_SECONDS)
        except LockedError as error:
            _end(running, unit, error)
            return
        except (PipelineError, DataFault) as error:
            _fail(running, unit, error)
            break
    for name in unit:
        running.ended[name].set()


def _end(running: _Run, unit: Sequence[str], error: PipelineError) -> None:
    """End the run, because no session can go on."""
    _fail(running, unit, error)
    running.error = error
    running.stop()


def _move_unit(running: _Run, target: Target, unit: tuple[str, ...]) -> None:
    plan, options = running.plan, running.options
    with target.transaction():
        for setting in positions.IN_ORDER:
            target.defer(setting)
        circle = len(unit) > 1
        moved = {name: _move_table(running, target, name, in_circle=circle) for name in unit}
        if not options.verify:
            parents = {parent for name in unit for parent in _parents(plan, name, unit)}
            fresh = all(each.fresh and not each.references for each in moved.values())
            ended = all(running.ended[name].is_set() for name in parents)
            at_once = fresh and ended and len(unit) == 1
            for name, each in moved.items():
                _finish(running, target, name, each, references=at_once)
            if not at_once:
                for parent in parents:
                    running.ended[parent].wait()
            if running.error is not None:
                raise running.error
            dropped = [reference for each in moved.values() for reference in each.references]
            for reference in difference.restore_references(target, dropped):
                running.postponed.setdefault(reference.label or "", []).append(reference)
            if not at_once:
                for name, each in moved.items():
                    _refer(running, target, name, each)
            for name, each in moved.items():
                _record(running, target, name, each)
    for name, each in moved.items():
        running.made[name] = each.table
        running.results[name] = each.result()
        running.on_table(running.results[name])


def _move_table(running: _Run, target: Target, name: str, *, in_circle: bool) -> Moved:
    plan, options = running.plan, running.options
    wanted, state = plan.tables[name], running.states[name]
    if state.rules is None and not (running.retried and _committed(running, target, wanted)):
        if options.verify:
            raise PipelineError(
                f"{wanted.label} was never copied", remedy="Run the copy without --verify"
            )
        return table.create(target, plan.source, wanted, seed=options.run_id)
    planned = plan.extras[name]
    if state.rules is not None and state.rules != recording.rules_of(
        wanted, [*planned.own, *planned.references]
    ):
        if not options.verify:
            views.drop(target, plan)
        return table.make_anew(target, plan.source, wanted, options, running.copied)
    states.require_shape(wanted, state)
    plain = replace(wanted, computed=state.computed_of(wanted))
    moved = table.update(target, plan.source, plain, options, running.copied, in_circle=in_circle)
    moved.left += table.not_computed(wanted, wanted.computed.keys() - plain.computed.keys())
    return moved


def _committed(running: _Run, target: Target, wanted: CopiedTable) -> bool:
    """Whether this run has committed a table before it lost its connection."""
    found = states.read(target, {"": wanted})[""]
    if found.rules is not None:
        running.states[folded(wanted.source.name)] = found
    return found.rules is not None


def _finish(running: _Run, target: Target, name: str, moved: Moved, *, references: bool) -> None:
    """Make keys, constraints and indexes, and perhaps foreign keys."""
    planned = running.plan.extras[name]
    wanted = planned.own + (planned.references if references else [])
    if not moved.fresh:
        wanted = extras.missing(target, moved.table, wanted)
        wanted += running.states[name].lacking([*keys.required(moved.table), *planned.own])
        for each in planned.own:
            if each.again is not None:
                target.defer(each.again)
    moved.left += planned.left
    if any(each.condition is not None for each in wanted):
        with running.plan.source.sqlite() as connection:
            trials = Trials(target, running.plan.source, connection)
            in_order = moved.fresh and not moved.rows.rejected
            wanted, left = extras.judge(trials, moved.table, wanted, in_order=in_order)
        moved.left += left
    moved.left += extras.make(target, moved.table, wanted)


def _refer(running: _Run, target: Target, name: str, moved: Moved) -> None:
    """Make foreign keys to tables that are there."""
    plan = running.plan
    wanted = plan.extras[name].references
    if not moved.fresh:
        wanted = extras.missing(target, moved.table, wanted)
    moved.left += extras.make(target, moved.table, wanted)
    moved.left += difference.validate(target, running.postponed.get(moved.table.label, ()))


def _record(running: _Run, target: Target, name: str, moved: Moved) -> None:
    """Write the ledger; a new table gets statistics."""
    planned = running.plan.extras[name]
    wanted = running.plan.tables[name]
    if moved.fresh:
        target.defer(f"ANALYZE {moved.table.place}")
    recording.write(
        target,
        moved.table,
        source=running.plan.source,
        rejected=moved.rows.rejected,
        digests=moved.proven.digests,
        rules=recording.rules_of(wanted, [*planned.own, *planned.references]),
        run_id=running.options.run_id,
    )
    if moved.rows.rejected:
        moved.reasons = quarantine.summary(target, moved.table.label)


def _parents(plan: CopyPlan, name: str, unit: tuple[str, ...]) -> Sequence[str]:
    named = {folded(key.parent) for key in plan.tables[name].source.foreign_keys}
    return [parent for parent in named if parent in plan.tables and parent not in unit]


def _fail(running: _Run, unit: Sequence[str], error: Exception) -> None:
    for name in unit:
        wanted = running.plan.tables[name]
        findings = getattr(error, "findings", ())
        result = TableResult(
            wanted.label,
            "failed",
            wanted.rows,
            wanted.bytes,
            findings=findings,
            error=str(error),
        )
        running.results[name] = result
        running.on_table(result)
