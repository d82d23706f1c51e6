"""Print the outcome of a run, as read from its events."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from pipeline.anki.outcomes import ACTIONS, Outcome
from pipeline.core.errors import PipelineError
from pipeline.core.findings import Quarantined
from pipeline.core.quoting import printable
from pipeline.cutover.gate import Answer
from pipeline.orchestration.common.metadata import ANSWERS, NOTES, OUTCOMES
from pipeline.reporting import frames, grids

_ENDED_FROM_OUTSIDE = frozenset({"KeyboardInterrupt", "DagsterExecutionInterruptedError"})
_LINES = 40
"""Outcomes to print; the UI shows more."""


@dataclass
class TableReport:
    """The metadata and checks of one table in a run."""

    name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dg.AssetCheckEvaluation] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether checks were made, and none failed with the severity error."""
        failed = [
            c
            for c in self.checks.values()
            if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR
        ]
        return bool(self.checks) and not failed


def tables_of(events: Iterable[dg.DagsterEvent]) -> list[TableReport]:
    """The tables of a run, in the order of their first event."""
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
    """A sentence for each failed step, and for each step that was skipped because of it."""
    started = {event.step_key for event in result.all_events if event.is_step_start}
    for event in result.all_events:
        if event.is_step_failure:
            yield sentence_of(event)
    for node in result.job_def.nodes_in_topological_order:
        if started and node.name not in started:
            yield f"{node.name} did not run because an earlier step failed."


def sentence_of(event: dg.DagsterEvent) -> str:
    """Why a step failed: the error's own sentence, or a fault of the program."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    if cause is None:
        return "A step failed without a message."
    text = printable(cause.message.strip())
    if cause.cls_name in _ENDED_FROM_OUTSIDE:
        return text
    if cause.cls_name in _names(PipelineError):
        return text.partition(": ")[2]
    return (
        f"{event.step_key} failed because of a bug in the pipeline ({text})."
        " Report it with the traceback that the UI shows for the run."
    )


def _names(kind: type[Exception]) -> set[str]:
    """Names of a class and of all its subclasses."""
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


def show(console: Console, tables: list[TableReport]) -> None:
    """Print moved rows, quarantined rows with reasons, and all check results."""
    moved = [table for table in tables if "strategy" in table.metadata]
    if moved:
        console.print(_moves(moved))
    if any("quarantined" in t.metadata and t.metadata["quarantined"] for t in moved):
        console.print(_quarantine(moved))
    if any(table.checks for table in tables):
        console.print(_checks(tables))


def show_following(console: Console, events: Sequence[dg.DagsterEvent]) -> None:
    """Print the outcomes of contents in Anki, and all check results."""
    for shown in _of_notes(events):
        counts = {action: shown[action.replace(" ", "_")].value for action in ACTIONS}
        listed = ", ".join(f"{number:,} {action}" for action, number in counts.items() if number)
        console.print(f"{listed or 'no contents'}; {shown['recordings'].value:,} recordings")
        if OUTCOMES in shown:
            some = [Outcome(**outcome) for outcome in shown[OUTCOMES].value[:_LINES]]
            console.print(grids.framed("In Anki", frames.outcome_frame(some)))
            more = sum(counts.values()) - counts["skipped"] - len(some)
            if more > 0:
                console.print(f"  and {more:,} more")
    if checked := tables_of(events):
        console.print(_checks(checked))


def _of_notes(events: Iterable[dg.DagsterEvent]) -> Iterator[dict[str, Any]]:
    """The metadata of Anki's notes, from a sync or from a dry run."""
    for event in events:
        data: Any = event.event_specific_data
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            recorded = data.asset_observation
        elif event.is_step_materialization:
            recorded = data.materialization
        else:
            continue
        if recorded.asset_key.to_user_string() == NOTES:
            yield dict(recorded.metadata)


def show_gate(console: Console, events: Iterable[dg.DagsterEvent]) -> None:
    """Print the answers of a cut-over's gate."""
    for table in tables_of(events):
        for check in table.checks.values():
            if ANSWERS in check.metadata:
                answers = [Answer(**answer) for answer in check.metadata[ANSWERS].value]  # type: ignore[arg-type, union-attr]
                console.print(grids.framed("The gate", frames.answer_frame(answers)))


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
