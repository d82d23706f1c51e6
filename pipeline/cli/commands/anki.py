"""Commands that synchronize Anki with the contents."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import typer

from pipeline.anki.outcomes import Removed
from pipeline.anki.store.open import configured_anki
from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import settings
from pipeline.core import private
from pipeline.core.errors import SettingsError
from pipeline.migrations.declaration import Anki

app = typer.Typer(no_args_is_help=True, help="Synchronize Anki with the contents.")


@app.command("sync")
def anki_sync(  # noqa: PLR0913, PLR0917  # one parameter for each option
    deck: Annotated[
        str | None, typer.Option(help="Deck for new notes; the default is ANKI_DECK.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Only the contents with these ids, separated by commas."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite a learner's edits and recreate deleted notes."),
    ] = False,
    removed: Annotated[
        str,
        typer.Option(
            help="What to do with notes whose content was deleted: report, tag or suspend."
        ),
    ] = "report",
    recordings: Annotated[
        bool, typer.Option("--recordings", help="Compare every recording byte by byte.")
    ] = False,
    create_deck: Annotated[
        bool, typer.Option("--create-deck", help="Create decks that Anki does not have.")
    ] = False,
    accept_profile: Annotated[
        bool,
        typer.Option(
            "--accept-profile",
            help="Sync even if the profile is another one, lacks most notes, or has some to adopt.",
        ),
    ] = False,
    verbose: terminal.Verbose = False,
) -> None:
    """Create and update notes in Anki, then compare contents, cards and notes."""
    if removed not in get_args(Removed):
        raise SettingsError(
            f"--removed cannot be {removed}", remedy="Choose report, tag or suspend"
        )
    config = {
        "deck": deck,
        "ids": terminal.ids(only),
        "dry_run": dry_run,
        "force": force,
        "removed": removed,
        "recordings": recordings,
        "create_deck": create_deck,
        "accept_profile": accept_profile,
    }
    raise typer.Exit(_follow("anki_sync", config=config, dry_run=dry_run, verbose=verbose))


@app.command("check")
def anki_check(verbose: terminal.Verbose = False) -> None:
    """Compare contents, cards, notes, recordings and vectors."""
    raise typer.Exit(_follow("anki_check", verbose=verbose))


def _follow(
    job_name: str,
    *,
    config: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    verbose: bool = False,
) -> int:
    """Run a job of Anki and print its outcome; returns the exit code."""
    started = time.perf_counter()
    with terminal.errors_name_migration(
        terminal.require_enabled(terminal.having(Anki))
    ) as migration:
        private.home(settings.load().pipeline_home)
        anki = configured_anki(settings.load())
        terminal.print_source(migration)
        # Dagster is loaded only where it is needed.
        with terminal.loading_dagster():
            from pipeline.cli.commands import job_runs
            from pipeline.orchestration.common import printing, report
        job_runs.prepare_databases(migration)
    say(f"anki    {anki.shown}")
    step = {"follow_contents": {"config": config}}
    result = job_runs.result_of(job_name, config=None if config is None else {"ops": step})
    printing.show_following(console, result.all_events, verbose=verbose)
    if result.success and all(table.proven for table in report.tables_of(result.all_events)):
        seconds = time.perf_counter() - started
        outcome, style = ("nothing was changed", "") if dry_run else ("consistent", "green")
        say(f"{outcome} in {seconds:.1f} s, run {result.run_id}", style=style)
        return 0
    return job_runs.failed(result)
