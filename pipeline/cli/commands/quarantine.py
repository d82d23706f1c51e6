"""Commands that export rejected rows and take corrected values in."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console
from pipeline.config import settings
from pipeline.core.messages import MIGRATE, REDRIVE
from pipeline.move.ledger import overrides
from pipeline.postgres import schema
from pipeline.reporting import quarantine_files

app = typer.Typer(no_args_is_help=True, help="Export rejected rows and correct their values.")


@app.command("export")
def export_quarantine(
    path: Annotated[Path, typer.Argument(help="The file to write, .csv or .json.")],
    which: terminal.Which = None,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
) -> None:
    """Write rejected rows to a file, one record for each value."""
    migration = terminal.holding(table) if table else terminal.meant(which)
    with terminal.errors_name_migration(migration), terminal.opened(terminal.server()) as target:
        schema.make_ledger(target)
        tables = [migration.metadata.tables[table]] if table else migration.tables
        records = quarantine_files.write(path, overrides.export(target, tables))
    console.print(f"{records:,} values written to {path}", markup=False)


@app.command("override")
def override_values(
    path: Annotated[Path, typer.Argument(help="An exported file with corrected values.")],
) -> None:
    """Import corrected values; the next redrive, move or verify uses them."""
    registry = settings.load().registry
    with terminal.opened(terminal.server()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        records = list(quarantine_files.read(path))
        changed = overrides.import_overrides(target, records, registry.tables)
    if changed:
        tables = {record["table"] for record in records}
        meant = [m for m in registry if tables & set(m.metadata.tables)]
        run = " and ".join(REDRIVE.written(each.address) for each in meant)
        values = "value" if changed == 1 else "values"
        console.print(f"{changed:,} corrected {values} imported; run {run} to try their rows again")
    else:
        console.print("no value in this file differs from quarantine")


@app.command("forget")
def forget_overrides(table: Annotated[str, typer.Argument(help="The table.")]) -> None:
    """Discard manual corrections of a table."""
    with (
        terminal.errors_name_migration(terminal.holding(table)) as migration,
        terminal.opened(terminal.server()) as target,
        target.lock(),
        target.transaction(),
    ):
        schema.make_ledger(target)
        removed = overrides.forget(target, table)
    run = MIGRATE.written(migration.address)
    values = "value" if removed == 1 else "values"
    console.print(
        f"{removed:,} corrected {values} discarded; run {run} to move the source's values"
    )
