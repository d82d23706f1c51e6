"""Tables in the terminal."""

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.findings import describe
from pipeline.core.messages import Address
from pipeline.core.quoting import printable
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.move.run.plan import TablePlan
from pipeline.reporting import frames
from pipeline.selftest.outcome import Outcome as Planted


def show_diagnostics(console: Console, diagnostics: Sequence[Diagnostic], address: Address) -> None:
    """Print the results of the checks of both databases, with remedies for a migration."""
    console.print(framed("Databases", frames.diagnostic_frame(diagnostics, address)))


def show_plan(console: Console, plans: Sequence[TablePlan]) -> None:
    """Print plans."""
    for title, frame in frames.of_plan(plans).items():
        if len(frame):
            console.print(framed(title, frame))


def show_outcomes(console: Console, outcomes: Iterable[Planted]) -> None:
    """Print planted differences, the checks that caught them, and one of their findings."""
    made = grid("Planted", "difference", "caught by", "finding", "")
    for outcome in outcomes:
        finding = describe(outcome.finding) if outcome.finding else "nothing to report"
        made.add_row(
            outcome.name,
            ", ".join(sorted(outcome.caught)) or "no check",
            safe(finding),
            "[green]ok[/]" if outcome.as_expected else "[red]unexpected[/]",
        )
    console.print(made)


def row_grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of rows; all columns except the first are right-aligned."""
    made = grid(title, *columns, right=frozenset(range(1, len(columns))))
    for row in rows:
        made.add_row(*map(safe, row))
    return made


def framed(title: str, frame: pd.DataFrame) -> Table:
    """A table of a data frame; columns of numbers are right-aligned."""
    numbers = frozenset(
        number
        for number, column in enumerate(frame.columns)
        if column in ("rows", "MiB", "rejected", "values", "lossy values", "seconds")
    )
    made = grid(title, *map(str, frame.columns), right=numbers)
    for row in frame.itertuples(index=False):
        made.add_row(*(safe(str(value)) for value in row))
    return made


def grid(title: str, *columns: str, right: frozenset[int] = frozenset()) -> Table:
    """An empty table; ``right`` holds the numbers of right-aligned columns."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number in right else "left",
            overflow="fold",
            no_wrap=number == 0 or number in right,
        )
    return table


def safe(text: str | None) -> Text:
    """Text from data, without markup and control characters."""
    return Text(printable(text or ""))
