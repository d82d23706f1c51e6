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

app = typer.Typer(no_args_is_help=True, help="Publish changes of the target to subscribers.")


@app.command("on")
def realtime_on() -> None:
    """Create the feed, the publication and the channels, then send a test event of each type."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs

    terminal.require_enabled(terminal.having(Realtime))
    found = job_runs.prepare_server()
    console.print(f"target  {found.target_shown}", markup=False)
    raise typer.Exit(job_runs.run("realtime"))


@app.command("status")
def realtime_status() -> None:
    """Show what is published and who may subscribe, without changing anything."""
    # Dagster is loaded only where it is needed.
    from pipeline.orchestration.common import checks

    tables, known = terminal.having(Realtime).tables, settings.load().registry.tables
    found = terminal.server()
    with terminal.opened(found) as target, target.read_only():
        results = realtime_checks.verify(target, tables, known=known)
        for result in results:
            state = "[green]as declared[/]" if result.passed else "[red]differs[/]    "
            console.print(f"{result.name:<22}{state}  ", end="")
            console.print(checks.summary(result), markup=False, soft_wrap=True)
        console.print(f"{'feed':<22}{_feed_state(target)}", markup=False, soft_wrap=True)
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
