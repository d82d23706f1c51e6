"""Commands that switch realtime on in the target, and tell how it stands."""

import json
from typing import Annotated, Literal

import typer
from rich import box
from rich.table import Table

from pipeline import environment, settings
from pipeline.commands import terminal
from pipeline.commands.terminal import console
from pipeline.migrations.declaration import Realtime
from pipeline.move.messages import REALTIME_ON, message, written
from pipeline.move.target import Target
from pipeline.realtime import checks as realtime_checks
from pipeline.realtime import objects
from pipeline.realtime.bench import measure, picture

told = typer.Typer(no_args_is_help=True, help="Tell changes of the target to who listens.")


@told.command("on")
def realtime_on() -> None:
    """Make the feed, the publication and the channels as declared, and try every type of event."""
    # Dagster is loaded only where it is needed.
    from pipeline.commands import running

    terminal.demand_enabled(terminal.having(Realtime))
    found = running.server()
    console.print(f"target  {found.target_shown}", markup=False)
    raise typer.Exit(running.run("realtime"))


@told.command("status")
def realtime_status() -> None:
    """Tell what is published, noted and allowed; nothing is changed."""
    # Dagster is loaded only where it is needed.
    from pipeline import checks

    tables, known = terminal.having(Realtime).tables, settings.load().registry.tables
    found = terminal.server()
    with terminal.opened(found) as target, target.looking():
        results = realtime_checks.standing(target, tables, known=known)
        for result in results:
            state = "[green]as declared[/]" if result.passed else "[red]not so[/]     "
            console.print(f"{result.name:<22}{state}  ", end="")
            console.print(checks.summary(result), markup=False, soft_wrap=True)
        console.print(f"{'feed':<22}{_of_feed(target)}", markup=False, soft_wrap=True)
    wrong = any(not result.passed and result.blocking for result in results)
    raise typer.Exit(1 if wrong else 0)


@told.command("bench")
def realtime_bench(
    subscribers: Annotated[
        str, typer.Option(help="How many, with commas between; both ways are measured with each.")
    ] = ",".join(map(str, measure.SUBSCRIBERS)),
    seconds: Annotated[float, typer.Option(help="Of each calm time.")] = measure.SECONDS,
    rate: Annotated[float, typer.Option(help="Writes per second.")] = measure.RATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Measure events against polling every 5 seconds, in scratch databases of the target's server.

    Exit code 1 when by events something was missed or came twice.
    """
    numbers = terminal.ids(subscribers, option="--subscribers")
    plan = measure.Plan(tuple(numbers), seconds, rate)
    loaded = settings.load()
    found = environment.server(loaded)
    environment.demand_session(found)
    say = terminal.errors if as_json else console
    say.print(f"target  {found.target_shown}, in scratch databases", markup=False)
    outcome = measure.run(found.target, plan, tell=lambda line: say.print(line, style="dim"))
    page = picture.write(outcome, loaded.reports)
    if as_json:
        print(json.dumps(outcome.as_json(), indent=2))
    else:
        for title, lines in (
            ("Measured", picture.rows(outcome)),
            ("To be reached", picture.goals(outcome)),
        ):
            console.print(_table(title, lines))
    say.print(f"report {page}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if outcome.whole else 1)


def _table(title: str, lines: list[dict[str, str]]) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in lines[0]:
        justify: Literal["left", "right"] = "left" if name in ("way", "goal") else "right"
        made.add_column(name.replace(" ", "\n"), justify=justify, no_wrap=True)
    for line in lines:
        made.add_row(*line.values())
    return made


def _of_feed(target: Target) -> str:
    if not objects.is_there(target):
        return written(message("there is none; run ", REALTIME_ON))
    ((rows, newest, oldest),) = target.rows(
        "SELECT count(*), coalesce(max(id), 0),"
        " to_char(min(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM feed.changes"
    )
    since = f" since {oldest} UTC" if oldest else ""
    hours = settings.load().feed_hours
    changes = "1 change" if rows == 1 else f"{rows:,} changes"
    return f"{changes}{since}, the newest {newest:,}; kept for {hours:g} hours"
