"""Tables in the terminal, and sentences that fit it."""

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TextIO

import pandas as pd
from rich.console import Console
from rich.text import Text

from pipeline.core.findings import describe
from pipeline.core.messages import Address
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.move.run.plan import TablePlan
from pipeline.reporting import frames, layout
from pipeline.reporting.layout import Grid, Medium
from pipeline.selftest.outcome import Outcome as Planted

STATES = {
    "passed": "green",
    "ok": "green",
    "yes": "green",
    "as declared": "green",
    "warning": "yellow",
    "failed": "red",
    "failing": "red",
    "error": "red",
    "no": "red",
    "differs": "red",
    "unexpected": "red",
}
"""Colours of results."""

_WIDTH = 80
"""The width of a terminal that does not know its own."""
_RIGHT = frozenset(
    ("rows", "size", "rejected", "values", "lossy values", "target holds", "seconds")
)
_STATE = frozenset(("", "state", "result"))


def console_on(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console on a stream; without one, on a standard stream."""
    console = Console(file=file, stderr=stderr, highlight=False)
    if not console.width:
        # COLUMNS=0, with which Rich prints nothing at all.
        console.width = _WIDTH
    return console


def medium_of(console: Console) -> Medium:
    """What a console writes to."""
    encoding = console.encoding
    if not console.file.isatty():
        return Medium(None, encoding)
    # COLUMNS counts unless it is zero; a terminal may not know its size.
    width = shutil.get_terminal_size(fallback=(0, 0)).columns
    with suppress(OSError, ValueError):
        width = width or os.get_terminal_size(console.file.fileno()).columns
    return Medium(width or _WIDTH, encoding)


def show(console: Console, grid: Grid) -> None:
    """Print a table, and a blank line after one with a title."""
    for line in layout.lines(grid, medium_of(console)):
        _print(console, line)
    if grid.title:
        _print(console, Text())


def say(console: Console, text: str, *, style: str = "") -> None:
    """Print a sentence; a terminal breaks it between words, a program gets one line."""
    medium = medium_of(console)
    shown = medium.shown(text)
    for line in [shown] if medium.width is None else layout.wrapped(shown, medium.width):
        _print(console, Text(line, style=style))


def _print(console: Console, line: Text) -> None:
    """Print a line as it is; Rich would print bold letters although colours are off."""
    if console.no_color or not console.file.isatty():
        print(line.plain, file=console.file)
    else:
        console.print(line, soft_wrap=True)


def show_diagnostics(console: Console, diagnostics: Sequence[Diagnostic], address: Address) -> None:
    """Print the results of the checks of both databases, with remedies for a migration."""
    show(console, framed("Databases", frames.diagnostic_frame(diagnostics, address)))


def show_plan(console: Console, plans: Sequence[TablePlan], *, verbose: bool = True) -> None:
    """Print plans; the columns and the forms of dates only if ``verbose``."""
    for title, frame in frames.of_plan(plans).items():
        if len(frame) and (verbose or title not in ("Columns", "Dates")):
            show(console, framed(title, frame))


def show_outcomes(console: Console, outcomes: Iterable[Planted]) -> None:
    """Print planted differences, the checks that caught them, and one of their findings."""
    rows = [
        (
            outcome.name,
            ", ".join(sorted(outcome.caught)) or "no check",
            describe(outcome.finding) if outcome.finding else "nothing to report",
            "ok" if outcome.as_expected else "unexpected",
        )
        for outcome in outcomes
    ]
    columns = ("difference", "caught by", "finding", "")
    show(console, Grid("Planted", columns, rows, styles=(3, STATES)))


def framed(title: str, frame: pd.DataFrame) -> Grid:
    """A table of a data frame; columns of figures are right-aligned, results have colours."""
    columns = [str(column) for column in frame.columns]
    state = next((number for number, name in enumerate(columns) if name in _STATE), -1)
    return Grid(
        title,
        columns,
        [[str(value) for value in row] for row in frame.itertuples(index=False)],
        frozenset(number for number, name in enumerate(columns) if name in _RIGHT),
        (state, STATES),
    )
