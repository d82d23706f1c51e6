"""Commands that switch change tracking in the source on and off."""

import typer

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import say
from pipeline.core.messages import TRACK_ON
from pipeline.sqlite import tracking

app = typer.Typer(no_args_is_help=True, help="Track changes in the source with triggers.")


@app.command("on")
def track_on(which: terminal.Which = None) -> None:
    """Add triggers and a change log to the source, so that sync finds every change."""
    with terminal.selected_migration(which) as migration:
        source = terminal.source(migration)
        installed = tracking.switch_on(source, migration.tables)
    state = "tracked; the next sync compares every value once" if installed else "already tracked"
    say(f"every change of {source} is {state}")


@app.command("off")
def track_off(which: terminal.Which = None) -> None:
    """Remove the triggers and the log from the source."""
    with terminal.selected_migration(which) as migration:
        source = terminal.source(migration)
        removed = tracking.switch_off(source)
    state = "is no longer tracked" if removed else "was not tracked"
    say(f"{source} {state}")


@app.command("status")
def track_status(which: terminal.Which = None) -> None:
    """Show which tables of the source are tracked."""
    with terminal.selected_migration(which) as migration:
        source = terminal.source(migration)
        found = tracking.status(source, migration.tables)
    if found.entries is None:
        say(f"{source} is not tracked")
        return
    say(f"tracked   {', '.join(found.tracked) or 'nothing'}")
    if found.untracked:
        on = TRACK_ON.written(migration.address)
        say(f"untracked {', '.join(found.untracked)}; run {on}")
    say(f"the log has {found.entries:,} {'entry' if found.entries == 1 else 'entries'}")
