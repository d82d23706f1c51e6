"""What a run did, for people at a terminal, read from the run's own events."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from pipeline.anki.outcomes import ACTIONS, Outcome
from pipeline.core.errors import PipelineError
from pipeline.core.findings import Quarantined
from pipeline.core.printable import printable
from pipeline.core.progress import Progress
from pipeline.cutover.gate import Answer
from pipeline.orchestration.common.metadata import ANSWERS, NOTES, OUTCOMES
from pipeline.reporting import frames, grids

_ENDED_FROM_OUTSIDE = frozenset({"KeyboardInterrupt", "DagsterExecutionInterruptedError"})
_LINES = 40
"""So many outcomes are printed; the UI shows more."""


@dataclass
class TableReport:
    """What the events of a run say of one table."""

    name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dg.AssetCheckEvaluation] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether it was checked, and every check whose failure is an error passed."""
        failed = [
            c
            for c in self.checks.values()
            if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR
        ]
        return bool(self.checks) and not failed


def tables_of(events: Iterable[dg.DagsterEvent]) -> list[TableReport]:
    """The tables that a run touched, in the order of their first event."""
    found: dict[str, TableReport] = {}
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            data: Any = event.event_specific_data
            table = data.asset_key.to_user_string()
            found.setdefault(table, TableReport(table)).checks[data.check_name] = data
        elif event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            if "strategy" not in materialization.metadata:
                continue
            table = materialization.asset_key.to_user_string()
            found.setdefault(table, TableReport(table)).metadata = {
                name: getattr(value, "value", value)
                for name, value in materialization.metadata.items()
            }
    return list(found.values())


def failures_of(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    """One sentence per failed step, and per table that did not move because of it."""
    started = {event.step_key for event in result.all_events if event.is_step_start}
    for event in result.all_events:
        if event.is_step_failure:
            yield sentence_of(event)
    for node in result.job_def.nodes_in_topological_order:
        if started and node.name not in started:
            yield f"{node.name} did not run, because a step before it failed."


def sentence_of(event: dg.DagsterEvent) -> str:
    """What a failed step said: our own sentence, or that the program has a fault."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    if cause is None:
        return "A step failed without a message."
    said = printable(cause.message.strip())
    if cause.cls_name in _ENDED_FROM_OUTSIDE:
        return said
    if cause.cls_name in _names(PipelineError):
        return said.partition(": ")[2]
    return (
        f"{event.step_key} ended by a fault of the program ({said})."
        " Report it with the traceback, which the UI shows with the run."
    )


def _names(kind: type[Exception]) -> set[str]:
    """Names of a class and of all that derive from it."""
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


def show(console: Console, tables: list[TableReport]) -> None:
    """Print what moved, what was set aside and why, and every check's result."""
    moved = [table for table in tables if "strategy" in table.metadata]
    if moved:
        console.print(_moves(moved))
    if any("quarantined" in t.metadata and t.metadata["quarantined"] for t in moved):
        console.print(_quarantine(moved))
    if any(table.checks for table in tables):
        console.print(_checks(tables))


def show_following(console: Console, events: Sequence[dg.DagsterEvent]) -> None:
    """Print what became of contents in Anki, and every check's result."""
    for shown in _told(events):
        counts = {action: shown[action.replace(" ", "_")].value for action in ACTIONS}
        said = ", ".join(f"{number:,} {action}" for action, number in counts.items() if number)
        console.print(f"{said or 'no contents'}; {shown['recordings'].value:,} recordings")
        if OUTCOMES in shown:
            some = [Outcome(**outcome) for outcome in shown[OUTCOMES].value[:_LINES]]
            console.print(grids.framed("In Anki", frames.of_outcomes(some)))
            more = sum(counts.values()) - counts["skipped"] - len(some)
            if more > 0:
                console.print(f"  and {more:,} more")
    if checked := tables_of(events):
        console.print(_checks(checked))


def _told(events: Iterable[dg.DagsterEvent]) -> Iterator[dict[str, Any]]:
    """What a sync with Anki said of its notes, whether it changed them or only looked."""
    for event in events:
        data: Any = event.event_specific_data
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            said = data.asset_observation
        elif event.is_step_materialization:
            said = data.materialization
        else:
            continue
        if said.asset_key.to_user_string() == NOTES:
            yield dict(said.metadata)


def show_gate(console: Console, events: Iterable[dg.DagsterEvent]) -> None:
    """Print what the gate of a cut-over was told."""
    for table in tables_of(events):
        for check in table.checks.values():
            if ANSWERS in check.metadata:
                answers = [Answer(**answer) for answer in check.metadata[ANSWERS].value]  # type: ignore[arg-type, union-attr]
                console.print(grids.framed("The gate", frames.of_answers(answers)))


def _moves(tables: list[TableReport]) -> Table:
    counts = ["source_rows", "moved", "written", "deleted", "cascaded", "quarantined"]
    names = ["source", "moved", "written", "deleted", "cascaded", "quarantine"]
    if any(table.metadata.get("excluded") for table in tables):
        counts.append("excluded")
        names.append("excluded")
    right = frozenset(range(2, 4 + len(names)))
    grid = grids.grid("Moved", "table", "strategy", *names, "MiB", "seconds", right=right)
    for table in tables:
        m = table.metadata
        grid.add_row(
            table.name,
            m["strategy"],
            *(f"{m[name]:,}" for name in counts),
            f"{m['source_bytes'] / 2**20:,.1f}",
            f"{m['seconds']:.2f}",
        )
    return grid


def _quarantine(tables: list[TableReport]) -> Table:
    found = [
        Quarantined(table=table.name, **finding)
        for table in tables
        for finding in table.metadata.get("quarantine_reasons", [])
    ]
    return grids.framed("In quarantine", frames.reasons(found))


def _checks(tables: list[TableReport]) -> Table:
    grid = grids.grid("Checks", "table", "check", "result", "figures")
    for table in tables:
        for name, check in table.checks.items():
            failed = (
                "[red]failed[/]"
                if check.severity == dg.AssetCheckSeverity.ERROR
                else "[yellow]warning[/]"
            )
            grid.add_row(
                table.name,
                name,
                "[green]passed[/]" if check.passed else failed,
                grids.safe(check.description),
            )
    return grid


class Bars:
    """A progress bar per table and phase; silent where there is no terminal."""

    def __init__(self) -> None:
        """Draw on the terminal itself: while a step runs, Dagster keeps what it prints."""
        self._terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=Console(file=self._terminal),
            transient=True,
            disable=not self._terminal.isatty(),
        )
        self._tasks: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> Self:
        """Start to draw."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bars."""
        self._bars.stop()
        self._terminal.close()

    def __call__(self, progress: Progress) -> None:
        """Show how far a phase is."""
        name = (progress.table, progress.phase)
        if name not in self._tasks:
            label = f"{progress.table}, {progress.phase}"
            self._tasks[name] = self._bars.add_task(label, total=progress.of_rows, rate="")
        rate = f"{progress.bytes / 2**20 / max(progress.seconds, 1e-3):,.0f} MiB/s"
        self._bars.update(self._tasks[name], completed=progress.rows, rate=rate)
