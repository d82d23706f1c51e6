"""The command that shows what the source of a migration holds; it needs no target."""

import secrets
from typing import Annotated

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import settings
from pipeline.core import private, progress
from pipeline.core.quoting import counted, printable
from pipeline.reporting import census_page, grids
from pipeline.scaffold.census import of_migration


def census(
    which: terminal.Which = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the census as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print every column, even if there are many.")
    ] = False,
) -> None:
    """Show what each column of the source holds, beside its declaration.

    Every value of the source is read; nothing is changed, and no target is needed.
    """
    loaded = settings.load()
    with terminal.selected_migration(which) as migration:
        private.home(loaded.pipeline_home)
        if not as_json:
            terminal.print_source(migration)
        with progress.waiting("reading every value of the source"):
            found = of_migration(loaded, migration)
        run_id = f"census-{secrets.token_hex(6)}"
        page = census_page.write(loaded.reports / run_id, found, run_id=run_id)
    if as_json:
        terminal.print_json({**census_page.as_json(found), "page": str(page)})
        return
    for grid in census_page.grids(found, verbose=verbose):
        grids.show(console, grid)
    for table in found.tables:
        if table.missing:
            missing = ", ".join(table.missing)
            say(f"the source lacks  {printable(f'{table.name}: {missing}')}", style="yellow")
    say(f"page  {page}")
    look = sum(table.to_look_at for table in found.declared)
    rows = counted(sum(table.rows for table in found.declared), "row")
    tables = counted(len(found.declared), "declared table")
    outcome = f"{counted(look, 'column')} to look at" if look else "all values fit"
    say(f"{tables}, {rows}: {outcome}", style="yellow" if look else "green")
