"""Move one unit of a copy: the tables that commit together, in one transaction."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pipeline.copy import views
from pipeline.copy.expressions.trial import Trials
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import TableResult
from pipeline.copy.moving import difference, positions, table
from pipeline.copy.moving.difference import Copied, Reference
from pipeline.copy.moving.table import Moved
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target import extras, keys, recording, states
from pipeline.copy.target.extras import Extra, LeftOut
from pipeline.copy.target.layout import CopiedTable
from pipeline.copy.target.states import TableState
from pipeline.core.errors import PipelineError
from pipeline.mapping.matching import folded
from pipeline.move.ledger import quarantine
from pipeline.postgres.target import Target

OnTable = Callable[[TableResult], None]


@dataclass
class Run:
    """The state that the sessions of a run share.

    Attributes:
        states: the tables of the target before the run, by folded name.
        on_table: called when a table has ended.
        made: tables as they were made.
        held: the number of rows in quarantine of each table.
        ended: set when a table has ended in any way.
        postponed: foreign keys of others to validate with their tables, by label.
        error: why no session can go on.
        retried: a connection was lost.
    """

    plan: CopyPlan
    options: CopyOptions
    states: dict[str, TableState]
    on_table: OnTable
    results: dict[str, TableResult] = field(default_factory=dict)
    made: dict[str, CopiedTable] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
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


def move(running: Run, target: Target, unit: tuple[str, ...]) -> None:
    """Move all tables of a unit, or none."""
    plan, options = running.plan, running.options
    with target.transaction():
        for setting in positions.IN_ORDER:
            target.defer(setting)
        circle = len(unit) > 1
        moved = {name: _move_table(running, target, name, in_circle=circle) for name in unit}
        running.held |= {name: len(each.rows.rejected) for name, each in moved.items()}
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


def _move_table(running: Run, target: Target, name: str, *, in_circle: bool) -> Moved:
    plan, options = running.plan, running.options
    wanted, state = plan.tables[name], running.states[name]
    if state.rules is None and not (running.retried and _committed(running, target, wanted)):
        if options.verify:
            raise PipelineError(
                f"{wanted.label} was never copied", remedy="Run the copy without --verify"
            )
        return table.create(target, plan.source, wanted, seed=options.run_id)

    def anew() -> Moved:
        if not options.verify:
            views.drop(target, plan)
        return table.make_anew(target, plan.source, wanted, options, running.copied)

    planned = plan.extras[name]
    if state.rules is not None and state.rules != recording.rules_of(
        wanted, [*planned.own, *planned.references]
    ):
        return anew()
    states.require_shape(wanted, state)
    plain = replace(wanted, computed=state.computed_of(wanted))
    moved = table.update(
        target, plan.source, plain, options, running.copied, anew=anew, in_circle=in_circle
    )
    if moved.fresh:
        return moved
    moved.left += table.not_computed(wanted, wanted.computed.keys() - plain.computed.keys())
    return moved


def _committed(running: Run, target: Target, wanted: CopiedTable) -> bool:
    """Whether this run has committed a table before it lost its connection."""
    found = states.read(target, {"": wanted})[""]
    if found.rules is not None:
        running.states[folded(wanted.source.name)] = found
    return found.rules is not None


def _finish(running: Run, target: Target, name: str, moved: Moved, *, references: bool) -> None:
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
    _make(running, target, moved, wanted)


def _make(running: Run, target: Target, moved: Moved, wanted: Sequence[Extra]) -> None:
    """Make extras, except foreign keys to tables that failed in this run."""
    failed = {name for name, each in running.results.items() if each.outcome == "failed"}
    possible = [each for each in wanted if each.parent is None or each.parent[0] not in failed]
    for each in wanted:
        if each not in possible and each.parent is not None:
            reason = f"{each.parent[1]} was not copied"
            moved.left.append(LeftOut(each.kind, each.table, each.name, reason))
    moved.left += extras.make(target, moved.table, possible, running.held)


def _refer(running: Run, target: Target, name: str, moved: Moved) -> None:
    """Make foreign keys to tables that are there."""
    plan = running.plan
    wanted = plan.extras[name].references
    if not moved.fresh:
        wanted = extras.missing(target, moved.table, wanted)
    _make(running, target, moved, wanted)
    moved.left += difference.validate(target, running.postponed.get(moved.table.label, ()))


def _record(running: Run, target: Target, name: str, moved: Moved) -> None:
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
