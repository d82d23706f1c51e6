"""Commands that switch realtime on in the target, and tell how it stands."""

import typer

from pipeline import checks, settings
from pipeline.assets import realtime as asset
from pipeline.commands import terminal
from pipeline.commands.terminal import console
from pipeline.migrations import SPACES
from pipeline.move.target import Target
from pipeline.realtime import checks as realtime_checks
from pipeline.realtime import objects

told = typer.Typer(no_args_is_help=True, help="Tell changes of the target to who listens.")


@told.command("on")
def realtime_on() -> None:
    """Make the feed, the publication and the channels as declared, and try every type of event."""
    terminal.demand_enabled(SPACES)
    found = terminal.server()
    console.print(f"target  {found.target_shown}", markup=False)
    raise typer.Exit(terminal.run("realtime"))


@told.command("status")
def realtime_status() -> None:
    """Tell what is published, noted and allowed; nothing is changed."""
    found = terminal.server()
    with terminal.opened(found) as target, target.looking():
        results = realtime_checks.standing(target, SPACES.tables, known=asset.KNOWN)
        for result in results:
            state = "[green]as declared[/]" if result.passed else "[red]not so[/]     "
            console.print(f"{result.name:<22}{state}  ", end="")
            console.print(checks.summary(result), markup=False, soft_wrap=True)
        console.print(f"{'feed':<22}{_of_feed(target)}", markup=False, soft_wrap=True)
    wrong = any(not result.passed and result.blocking for result in results)
    raise typer.Exit(1 if wrong else 0)


def _of_feed(target: Target) -> str:
    if not objects.is_there(target):
        return "there is none; run pipeline realtime on"
    ((rows, newest, oldest),) = target.rows(
        "SELECT count(*), coalesce(max(id), 0),"
        " to_char(min(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM feed.changes"
    )
    since = f" since {oldest} UTC" if oldest else ""
    hours = settings.load().feed_hours
    changes = "1 change" if rows == 1 else f"{rows:,} changes"
    return f"{changes}{since}, the newest {newest:,}; kept for {hours:g} hours"
