"""Commands that change the application over to the target, and back."""

from typing import Annotated

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console
from pipeline.core.messages import ROLLBACK
from pipeline.cutover import sign_offs, states
from pipeline.cutover.steps import CUTOVER, STEP, confirmation
from pipeline.migrations.declaration import Migration
from pipeline.postgres import schema
from pipeline.sqlite.snapshot import validate

_LABELS = {"caught_up": "caught up", "blocked_seconds": "blocked seconds"}

app = typer.Typer(no_args_is_help=True, help="Change the application over to the target.")


@app.command("status")
def cutover_status(which: terminal.Which = None) -> None:
    """Tell who may write, and ask the gate; nothing is changed."""
    raise typer.Exit(_cut_over("check", which))


@app.command("freeze")
def cutover_freeze(which: terminal.Which = None) -> None:
    """Compare every value, then keep the application from writing the source, and move the rest."""
    raise typer.Exit(_cut_over("freeze", which))


@app.command("live")
def cutover_live(which: terminal.Which = None) -> None:
    """The same, and let the application write the target; only if the gate is open."""
    raise typer.Exit(_cut_over("live", which))


@app.command("unfreeze")
def cutover_unfreeze(which: terminal.Which = None) -> None:
    """Let the application write the source again, as long as the target is not live."""
    raise typer.Exit(_cut_over("unfreeze", which))


@app.command("close")
def cutover_close(
    which: terminal.Which = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End the way back: what is written to the target is not captured any more."""
    after = ROLLBACK.written(terminal.meant(which).address)
    terminal.confirm(f"End the way back? After this {after} refuses.", yes=yes)
    raise typer.Exit(_cut_over("close", which))


@app.command("sign-off")
def sign_off(
    table: Annotated[str, typer.Argument(help="The table.")],
    by: Annotated[str, typer.Option(help="Who says so.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    row: Annotated[
        list[str] | None, typer.Option(help="Keys of rows, once for each; otherwise all.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take a sign-off back.")] = False,
) -> None:
    """Let rows of a table stay behind in quarantine, or take that back."""
    name = table
    with (
        terminal.addressing(terminal.holding(name)),
        terminal.opened(terminal.server()) as target,
        target.lock(),
        target.transaction(),
    ):
        schema.make_ledger(target)
        if undo:
            taken = sign_offs.undo(target, name, row_ids=row or ())
            told = f"{taken:,} sign-offs of {name} are taken back"
        else:
            signed = sign_offs.sign(target, name, row_ids=row or (), by=by, reason=reason)
            told = f"{signed:,} {'row' if signed == 1 else 'rows'} of {name} may stay behind"
    console.print(told if undo else f"{told}, says {by}", markup=False)


def rollback(which: terminal.Which = None) -> None:
    """Take what was written to the target since the cut-over back into the source."""
    raise typer.Exit(_cut_over("rollback", which))


def _of(migration: Migration) -> str:
    """What tells a migration from the one that is meant where none is named."""
    return "" if migration.plain else f" {migration.name}"


def _cut_over(step: str, which: str | None) -> int:
    """Run a step of the cut-over; returns the exit code."""
    with terminal.serving(which) as migration:
        return _run_step(step, migration)


def _run_step(step: str, migration: Migration) -> int:
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import running
    from pipeline.orchestration.common import report

    found, node = running.ready(migration), migration.named(STEP)
    validate(found.source)
    terminal.print_databases(found, migration)
    config = {"step": step, "confirm": confirmation(step, migration.name)}
    result = running.result_of(migration.named(CUTOVER), config={"ops": {node: {"config": config}}})
    report.show_gate(console, result.all_events)
    with terminal.opened(found) as target:
        now = states.read(target, migration.name)
    console.print(f"the migration{_of(migration)} is {now}")
    for event in result.asset_materializations_for_node(node):
        for name, value in event.metadata.items():
            if name != "state":
                console.print(f"{_LABELS.get(name, name)}: {value.value}", markup=False)
    if not result.success:
        return running.failed(result)
    return 0 if all(table.proven for table in report.tables_of(result.all_events)) else 1
