"""Commands that show and export rejected rows and take corrected values in."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import settings
from pipeline.core.messages import EXPORT, MIGRATE, REDRIVE
from pipeline.core.quoting import printable
from pipeline.move.ledger import overrides, quarantine
from pipeline.postgres import schema
from pipeline.reporting import frames, grids, quarantine_files

app = typer.Typer(
    no_args_is_help=True, help="Show and export rejected rows, and correct their values."
)


@app.command("show")
def show_quarantine(
    which: terminal.Which = None,
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reasons as JSON.")] = False,
) -> None:
    """Show how many rows are in quarantine, with reasons and the keys of some of them."""
    migration = terminal.holding(table) if table else terminal.meant(which)
    names = [table] if table else [each.name for each in migration.tables]
    with terminal.errors_name_migration(migration), terminal.opened(terminal.server()) as target:
        exists = target.value("SELECT to_regclass('migration.quarantine') IS NOT NULL")
        known = names if exists else []
        found = [reason for name in known for reason in quarantine.summary(target, name)]
        rows = sum(len(quarantine.row_ids(target, name)) for name in known)
    if as_json:
        terminal.as_utf8()
        print(printable(json.dumps([asdict(reason) for reason in found], ensure_ascii=False)))
        return
    if not rows:
        say("quarantine is empty")
        return
    grids.show(console, grids.framed("In quarantine", frames.reasons(found)))
    are = "1 row is" if rows == 1 else f"{rows:,} rows are"
    say(f"{are} in quarantine; {EXPORT.written(migration.address)} writes their values to a file")


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
    values = "value" if records == 1 else "values"
    say(f"{records:,} {values} written to {path}")


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
        say(f"{changed:,} corrected {values} imported; run {run} to try their rows again")
    else:
        say("no value in this file differs from quarantine")


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
    say(f"{removed:,} corrected {values} discarded; run {run} to move the source's values")
