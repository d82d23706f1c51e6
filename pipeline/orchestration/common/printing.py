"""Print the outcome of a run: one summary line, what needs attention, and the rest on request."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import dagster as dg
from rich.console import Console

from pipeline.anki.outcomes import ACTIONS, Outcome
from pipeline.core import proof
from pipeline.core.findings import Quarantined
from pipeline.core.messages import DEFAULT_ADDRESS, MIGRATE, QUARANTINE, Address
from pipeline.core.quoting import share, size
from pipeline.cutover.gate import Answer
from pipeline.orchestration.common.metadata import (
    ANSWERS,
    NEW_REASONS,
    NOT_DECLARED,
    NOTES,
    OUTCOMES,
)
from pipeline.orchestration.common.report import Rows, TableReport, tables_of
from pipeline.reporting import frames, grids
from pipeline.reporting.layout import Grid

_LINES = 40
"""Outcomes to print; the UI shows more."""
_TABLES = 20
_REASONS = 10


def show(
    console: Console,
    tables: Sequence[TableReport],
    *,
    run_id: str,
    verbose: bool = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Print what a run did and what needs attention.

    Args:
        console: where to print.
        tables: the tables of the run.
        run_id: the run.
        verbose: print all tables, all reasons for quarantine and all checks.
        address: the migration that commands name.
    """
    moved = [table for table in tables if table.moved]
    shown = moved if verbose else [table for table in moved if table.changed]
    checks = [(table, check) for table in tables for check in table.checks.values()]
    listed = checks if verbose else [each for each in checks if _needs_attention(*each)]
    hidden = 0 if verbose else sum(_is_warning(check) for _, check in checks) - len(listed)
    if moved or checks:
        grids.say(console, f"{_summary(tables, hidden=hidden)}, run {run_id}")
    if shown:
        grids.show(console, _moves(shown if verbose else shown[:_TABLES], verbose=verbose))
    if not verbose and len(shown) > _TABLES:
        more = _plural(len(shown) - _TABLES, "more table")
        grids.say(console, f"and {more} (--verbose)")
    entry = "quarantine_reasons" if verbose else NEW_REASONS
    if reasons := [reason for table in moved for reason in table.reasons(entry)]:
        _show_reasons(console, reasons, verbose=verbose, address=address)
    if listed:
        grids.show(console, _checks(listed, "Checks" if verbose else "Needs attention"))
    for table in shown if not verbose else tables:
        if undeclared := table.metadata.get(NOT_DECLARED):
            grids.say(console, f"not declared, stays in the source: {undeclared}", style="yellow")
    for table in tables:
        if table.rows and table.rows.hardly_any:
            grids.say(console, _hardly_any(table.name, table.rows), style="red")


def last_line(tables: Sequence[TableReport], seconds: float, address: Address) -> tuple[str, str]:
    """What a run has proven, and what it left behind; and the colour of this sentence."""
    if wrong := [table.name for table in tables if table.unresolved]:
        found = f"not proven: a verification has found that rows of {', '.join(wrong)} differ"
        return f"{found}; to compare and correct them: {MIGRATE.written(address)}", "red"
    counted = [table.rows for table in tables if table.rows is not None]
    proven = f"proven in {seconds:.1f} s"
    if not counted:
        return proven, "green"
    rows = reduce(add, counted)
    if rows.source and not rows.moved:
        proven = f"nothing arrived in {seconds:.1f} s"
    if not rows.quarantined:
        number = f"all {rows.source:,} rows" if rows.source else "the source has no rows"
        return f"{proven}: {number}", "green"
    return (
        f"{proven}: {rows.moved:,} of {rows.source:,} rows; {_in_quarantine(rows)}:"
        f" {QUARANTINE.written(address)}"
    ), "yellow"


def show_following(
    console: Console, events: Sequence[dg.DagsterEvent], *, verbose: bool = False
) -> None:
    """Print the outcomes of contents in Anki, and the checks that need attention, or all."""
    for shown in _of_notes(events):
        counts = {action: shown[action.replace(" ", "_")].value for action in ACTIONS}
        listed = ", ".join(f"{number:,} {action}" for action, number in counts.items() if number)
        recordings = shown["recordings"].value
        grids.say(
            console,
            f"{listed or 'no contents'}; {recordings:,}"
            f" {'recording' if recordings == 1 else 'recordings'}",
        )
        if OUTCOMES in shown:
            some = [Outcome(**outcome) for outcome in shown[OUTCOMES].value[:_LINES]]
            grids.show(console, grids.framed("In Anki", frames.outcome_frame(some)))
            more = sum(counts.values()) - counts["skipped"] - len(some)
            if more > 0:
                grids.say(console, f"and {more:,} more")
    checks = [(table, check) for table in tables_of(events) for check in table.checks.values()]
    attention = [each for each in checks if not each[1].passed]
    # The checks of a run that failed half way do not say that anything is well.
    if attention or (checks and not any(event.is_step_failure for event in events)):
        grids.say(console, _outcomes([check for _, check in checks]))
    if found := checks if verbose else attention:
        grids.show(console, _checks(found, "Checks" if verbose else "Needs attention"))


def show_gate(console: Console, events: Iterable[dg.DagsterEvent]) -> None:
    """Print the answers of a cut-over's gate."""
    for table in tables_of(events):
        for check in table.checks.values():
            if ANSWERS in check.metadata:
                answers = [Answer(**answer) for answer in check.metadata[ANSWERS].value]  # type: ignore[arg-type, union-attr]
                grids.show(console, grids.framed("The gate", frames.answer_frame(answers)))


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


def _summary(tables: Sequence[TableReport], *, hidden: int) -> str:
    """What the run did, in one line."""
    moved = [table for table in tables if table.moved]
    checks = [check for table in tables for check in table.checks.values()]
    number = _plural(len(moved), "table")
    if not moved:
        done = _outcomes(checks) if checks else "nothing was moved or checked"
    elif not any(table.changed for table in moved):
        done = f"nothing has changed in {number}"
    else:
        written, deleted = (sum(t.metadata[name] for t in moved) for name in ("written", "deleted"))
        done = f"{number}: {_plural(written, 'row')} written, {deleted:,} deleted"
    more = f"; {_plural(hidden, 'warning')} as before (--verbose)" if hidden else ""
    return f"{done}{more}"


def _outcomes(checks: Sequence[dg.AssetCheckEvaluation]) -> str:
    """How many checks passed, and how many did not."""
    wrong = [check for check in checks if not check.passed]
    if not wrong:
        return f"{_plural(len(checks), 'check')} passed"
    failed = sum(check.severity == dg.AssetCheckSeverity.ERROR for check in wrong)
    warnings = len(wrong) - failed
    counted = [f"{len(checks) - len(wrong):,} passed"]
    counted += [_plural(warnings, "warning")] * bool(warnings) + [f"{failed:,} failed"] * bool(
        failed
    )
    return f"{_plural(len(checks), 'check')}: {', '.join(counted)}"


def _hardly_any(table: str, rows: Rows) -> str:
    arrived = f"only {rows.moved:,}" if rows.moved else "none"
    return f"{table}: {arrived} of {_plural(rows.source, 'row')} arrived; {_in_quarantine(rows)}"


def _in_quarantine(rows: Rows) -> str:
    part = share(rows.quarantined, rows.source, digits=1)
    are = "is" if rows.quarantined == 1 else "are"
    return f"{_plural(rows.quarantined, 'row')} ({part}) {are} in quarantine"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _is_warning(check: dg.AssetCheckEvaluation) -> bool:
    return not check.passed and check.check_name != proof.QUARANTINE.name


def _needs_attention(table: TableReport, check: dg.AssetCheckEvaluation) -> bool:
    """Whether a check failed, in this run or in a verification, or warns of compared rows."""
    failed = check.severity == dg.AssetCheckSeverity.ERROR or check.check_name in table.unresolved
    return _is_warning(check) and (failed or table.compared)


def _moves(tables: Sequence[TableReport], *, verbose: bool) -> Grid:
    names = ["written", "deleted"]
    names += [n for n in ("cascaded",) if verbose or any(t.metadata[n] for t in tables)]
    others = ["quarantine", *(["outside"] if any(t.metadata["excluded"] for t in tables) else [])]
    columns = ["table", "strategy", "source", "moved", *names, *others, "size"]
    rows = []
    for table in tables:
        counted, found = table.metadata, table.rows or Rows(0, 0, 0)
        excluded = counted["excluded"]
        figures = [found.source + excluded, found.moved, *(counted[name] for name in names)]
        figures += [found.quarantined, excluded][: len(others)]
        sizes = [size(counted["source_bytes"]), *([f"{counted['seconds']:.2f} s"] * verbose)]
        rows.append([table.name, counted["strategy"], *(f"{f:,}" for f in figures), *sizes])
    columns += ["seconds"] * verbose
    return Grid("Moved", columns, rows, frozenset(range(2, len(columns))))


def _show_reasons(
    console: Console, reasons: Sequence[Quarantined], *, verbose: bool, address: Address
) -> None:
    """Print reasons for quarantine, the most frequent ones if there are many."""
    some = reasons
    if not verbose and len(reasons) > _REASONS:
        some = sorted(reasons, key=lambda reason: -reason.rows)[:_REASONS]
    title = "In quarantine" if verbose else "New in quarantine"
    grids.show(console, grids.framed(title, frames.reasons(some)))
    if len(some) < len(reasons):
        more = _plural(len(reasons) - len(some), "more reason")
        grids.say(console, f"and {more}: {QUARANTINE.written(address)}")


def _checks(found: Sequence[tuple[TableReport, dg.AssetCheckEvaluation]], title: str) -> Grid:
    rows = []
    for table, check in found:
        wrong = "failed" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"
        result = "passed" if check.passed else wrong
        rows.append((table.name, check.check_name, result, check.description or ""))
    return Grid(title, ("table", "check", "result", "detail"), rows, styles=(2, grids.STATES))
