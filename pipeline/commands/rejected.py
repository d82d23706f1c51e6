"""Commands that look at rejected rows, and mend them."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import quarantine_files
from pipeline.commands import terminal
from pipeline.commands.terminal import console
from pipeline.move import mending, schema
from pipeline.tables import content

kept = typer.Typer(no_args_is_help=True, help="Look at rejected rows, and mend them.")


@kept.command("export")
def export_quarantine(
    path: Annotated[Path, typer.Argument(help="A file named .csv or .json.")],
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
) -> None:
    """Write rejected rows to a file, a record for each value."""
    with terminal.opened(terminal.ready()) as target:
        schema.make_ledger(target)
        tables = [content.metadata.tables[name] for name in terminal.known(table)]
        records = quarantine_files.write(path, mending.export(target, tables))
    console.print(f"{records:,} values in {path}", markup=False)


@kept.command("mend")
def mend_quarantine(
    path: Annotated[Path, typer.Argument(help="An exported file with mended values.")],
) -> None:
    """Take mended values in; the next redrive, move or verify uses them."""
    with terminal.opened(terminal.ready()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        changed = mending.take_in(
            target, quarantine_files.read(path), content.metadata.sorted_tables
        )
    if changed:
        console.print(f"{changed:,} values mended; run pipeline redrive to try their rows again")
    else:
        console.print("nothing in this file differs from quarantine")


@kept.command("forget")
def forget_mended(table: Annotated[str, typer.Argument(help="The table.")]) -> None:
    """Let the source's own values of a table stand again."""
    with terminal.opened(terminal.ready()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        (name,) = terminal.known(table)
        gone = mending.forget(target, name)
    console.print(f"{gone:,} mended values forgotten; run pipeline migrate to go by the source")
