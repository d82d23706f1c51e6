"""Commands for the cut-over to the target, and the way back."""

from typing import Annotated

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.core.messages import ROLLBACK
from pipeline.cutover import sign_offs, states
from pipeline.cutover.steps import CUTOVER, STEP, confirmation
from pipeline.migrations.declaration import Migration
from pipeline.postgres import schema

_LABELS = {"caught_up": "caught up", "blocked_seconds": "blocked seconds"}

app = typer.Typer(no_args_is_help=True, help="Cut the application over to the target.")


@app.command("status")
def cutover_status(which: terminal.Which = None) -> None:
    """Show the state of the cut-over and evaluate the gate, without changing anything."""
    raise typer.Exit(_cut_over("check", which))


@app.command("freeze")
def cutover_freeze(which: terminal.Which = None) -> None:
    """Compare every value, freeze the source, and move the remaining changes."""
    raise typer.Exit(_cut_over("freeze", which))


@app.command("live")
def cutover_live(which: terminal.Which = None) -> None:
    """Freeze, then let the application write to the target if the gate is open."""
    raise typer.Exit(_cut_over("live", which))


@app.command("unfreeze")
def cutover_unfreeze(which: terminal.Which = None) -> None:
    """Let the application write to the source again, unless the target is live."""
    raise typer.Exit(_cut_over("unfreeze", which))


@app.command("close")
def cutover_close(
    which: terminal.Which = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Close the migration: stop capturing writes to the target; rollback becomes impossible."""
    after = ROLLBACK.written(terminal.meant(which).address)
    terminal.confirm(f"Close the migration? After this, {after} is impossible.", yes=yes)
    raise typer.Exit(_cut_over("close", which))


@app.command("sign-off")
def sign_off(
    table: Annotated[str, typer.Argument(help="The table.")],
    by: Annotated[str, typer.Option(help="Name of the person who signs off.")] = "",
    reason: Annotated[str, typer.Option(help="Reason for the sign-off.")] = "",
    row: Annotated[
        list[str] | None,
        typer.Option(help="Key of a row; repeat it for several rows. The default is all rows."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Withdraw the sign-off.")] = False,
) -> None:
    """Accept that rows of a table remain in quarantine, or withdraw this acceptance."""
    name = table
    with (
        terminal.errors_name_migration(terminal.holding(name)),
        terminal.opened(terminal.server()) as target,
        target.lock(),
        target.transaction(),
    ):
        schema.make_ledger(target)
        if undo:
            taken = sign_offs.undo(target, name, row_ids=row or ())
            outcome = f"{taken:,} sign-offs of {name} withdrawn"
        else:
            signed = sign_offs.sign(target, name, row_ids=row or (), by=by, reason=reason)
            outcome = (
                f"{signed:,} {'row' if signed == 1 else 'rows'} of {name} may remain in quarantine"
            )
    say(outcome if undo else f"{outcome}, signed off by {by}")


def rollback(which: terminal.Which = None) -> None:
    """Copy what was written to the target since the cut-over back into the source."""
    raise typer.Exit(_cut_over("rollback", which))


def _suffix(migration: Migration) -> str:
    """The name of a migration with a blank before it; empty for the default one."""
    return "" if migration.plain else f" {migration.name}"


def _cut_over(step: str, which: str | None) -> int:
    """Run a step of the cut-over; returns the exit code."""
    with terminal.selected_migration(which) as migration:
        return _run_step(step, migration)


def _run_step(step: str, migration: Migration) -> int:
    terminal.print_source(migration)
    # Dagster is loaded only where it is needed.
    with terminal.loading_dagster():
        from pipeline.cli.commands import job_runs
        from pipeline.orchestration.common import printing, report

    found, node = job_runs.prepare_databases(migration), migration.named(STEP)
    config = {"step": step, "confirm": confirmation(step, migration.name)}
    result = job_runs.result_of(
        migration.named(CUTOVER), config={"ops": {node: {"config": config}}}
    )
    printing.show_gate(console, result.all_events)
    with terminal.opened(found) as target:
        now = states.read(target, migration.name)
    say(f"the migration{_suffix(migration)} is {now}")
    for event in result.asset_materializations_for_node(node):
        for name, value in event.metadata.items():
            if name != "state":
                say(f"{_LABELS.get(name, name)}: {value.value}")
    if not result.success:
        return job_runs.failed(result)
    return 0 if all(table.proven for table in report.tables_of(result.all_events)) else 1
