"""Tables at a terminal, and what is shown as one whatever found it."""

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.findings import describe
from pipeline.core.messages import Address
from pipeline.core.printable import printable
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.move.run.plan import TablePlan
from pipeline.reporting import frames
from pipeline.selftest.outcome import Outcome as Planted


def show_diagnostics(console: Console, diagnostics: Sequence[Diagnostic], address: Address) -> None:
    """Print what an examination found, and what to do about it for a migration."""
    console.print(framed("Examined", frames.of_diagnostics(diagnostics, address)))


def show_plan(console: Console, plans: Sequence[TablePlan]) -> None:
    """Print what moves would do."""
    for title, frame in frames.of_plan(plans).items():
        if len(frame):
            console.print(framed(title, frame))


def show_outcomes(console: Console, outcomes: Iterable[Planted]) -> None:
    """Print what was planted, which checks found it, and what they said."""
    made = grid("Planted", "difference", "caught by", "as", "")
    for outcome in outcomes:
        finding = describe(outcome.finding) if outcome.finding else "nothing to report"
        made.add_row(
            outcome.name,
            ", ".join(sorted(outcome.caught)) or "nobody",
            safe(finding),
            "[green]right[/]" if outcome.right else "[red]wrong[/]",
        )
    console.print(made)


def grid_of(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Rows as a printed table; every column but the first is one of figures."""
    made = grid(title, *columns, right=frozenset(range(1, len(columns))))
    for row in rows:
        made.add_row(*map(safe, row))
    return made


def framed(title: str, frame: pd.DataFrame) -> Table:
    """A frame as a printed table; columns of figures end at the right."""
    numbers = frozenset(
        at
        for at, column in enumerate(frame.columns)
        if column in ("rows", "MiB", "rejected", "values", "lossy values", "seconds")
    )
    made = grid(title, *map(str, frame.columns), right=numbers)
    for row in frame.itertuples(index=False):
        made.add_row(*(safe(str(value)) for value in row))
    return made


def grid(title: str, *columns: str, right: frozenset[int] = frozenset()) -> Table:
    """A printed table without rows.

    Args:
        title: stands above it.
        columns: their names.
        right: which of them end at the right.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for at, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if at in right else "left",
            overflow="fold",
            no_wrap=at == 0 or at in right,
        )
    return table


def safe(text: str | None) -> Text:
    """What may come from data: neither markup nor anything that a terminal obeys."""
    return Text(printable(text or ""))
