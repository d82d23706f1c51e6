"""Commands that switch realtime on in the target and show its state."""

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console
from pipeline.config import settings
from pipeline.core.messages import REALTIME_ON, message, written
from pipeline.migrations.declaration import Realtime
from pipeline.postgres.target import Target
from pipeline.realtime import checks as realtime_checks
from pipeline.realtime import feed_objects
from pipeline.reporting import grids
from pipeline.reporting.layout import Grid

app = typer.Typer(no_args_is_help=True, help="Publish changes of the target to subscribers.")


@app.command("on")
def realtime_on(verbose: terminal.Verbose = False) -> None:
    """Create the feed, the publication and the channels, then send a test event of each type."""
    migration = terminal.require_enabled(terminal.having(Realtime))
    # Dagster is loaded only where it is needed.
    with terminal.loading_dagster():
        from pipeline.cli.commands import job_runs
    terminal.print_target(job_runs.prepare_server())
    raise typer.Exit(job_runs.run("realtime", migration, verbose=verbose))


@app.command("status")
def realtime_status() -> None:
    """Show what is published and who may subscribe, without changing anything."""
    # Dagster is loaded only where it is needed.
    with terminal.loading_dagster():
        from pipeline.orchestration.common import checks

    tables, known = terminal.having(Realtime).tables, settings.load().registry.tables
    found = terminal.server()
    with terminal.opened(found) as target, target.read_only():
        results = realtime_checks.verify(target, tables, known=known)
        rows = [
            (each.name, "as declared" if each.passed else "differs", checks.summary(each))
            for each in results
        ]
        rows.append(("feed", "", _feed_state(target)))
    columns = ("part", "state", "detail")
    grids.show(console, Grid("Realtime", columns, rows, styles=(1, grids.STATES)))
    wrong = any(not result.passed and result.blocking for result in results)
    raise typer.Exit(1 if wrong else 0)


def _feed_state(target: Target) -> str:
    if not feed_objects.exists(target):
        return written(message("no feed exists; run ", REALTIME_ON))
    ((rows, newest, oldest),) = target.rows(
        "SELECT count(*), coalesce(max(id), 0),"
        " to_char(min(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM feed.changes"
    )
    since = f" since {oldest} UTC" if oldest else ""
    hours = settings.load().feed_hours
    changes = "1 change" if rows == 1 else f"{rows:,} changes"
    return f"{changes}{since}, the newest {newest:,}; kept for {hours:g} hours"
