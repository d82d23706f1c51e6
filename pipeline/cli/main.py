"""The command ``pipeline``: thin commands, each runs the Dagster job of its name, in this process.

Exit codes: 0 when every blocking check passed; 1 when a run failed, the output could not be written
or the program has a fault; 2 when nothing was tried because a setting or a database is not usable.
"""

import logging
import sys
import warnings
from collections.abc import Sequence

import typer

from pipeline.cli import crash_reports
from pipeline.cli.commands import (
    anki,
    backups,
    cutover,
    moves,
    operating,
    quarantine,
    terminal,
    tracking,
)
from pipeline.cli.commands import realtime as realtime_commands
from pipeline.cli.surroundings import OutputError
from pipeline.config import settings
from pipeline.core import private
from pipeline.core.errors import FULL, FilesError, PipelineError, TargetError
from pipeline.migrations import registry


def build(names: Sequence[str]) -> typer.Typer:
    """The commands, for migrations of these names."""
    terminal.describe(names)
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Move tables from SQLite to PostgreSQL and prove that every value arrived.",
    )
    app.command()(moves.doctor)
    app.command()(moves.plan)
    app.command("schema")(moves.show_schema)
    app.command()(moves.migrate)
    app.command()(moves.sync)
    app.add_typer(tracking.app, name="track")
    app.command()(moves.verify)
    app.command()(moves.redrive)
    app.add_typer(quarantine.app, name="quarantine")
    app.add_typer(backups.group(names), name="backup")
    app.add_typer(backups.restored, name="restore")
    app.add_typer(cutover.app, name="cutover")
    app.command()(cutover.rollback)
    app.add_typer(anki.app, name="anki")
    app.add_typer(realtime_commands.app, name="realtime")
    app.command()(moves.selftest)
    app.command()(operating.dev)
    app.command()(operating.serve)
    app.command()(operating.health)
    app.add_typer(operating.alert, name="alert")
    return app


def main() -> None:
    """Entry point of the command ``pipeline``; a failure is one sentence, not a traceback."""
    private.guard_process()
    warnings.filterwarnings("ignore", module="dagster")
    # What libraries log has been said in a sentence, or is none of the user's concern.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        try:
            build(_names())()
        finally:
            sys.stdout.flush()
    except OutputError as error:
        terminal.print_error(error)
        sys.exit(1)
    except PipelineError as error:
        terminal.print_error(error)
        sys.exit(2)
    except Exception as error:  # whatever nobody foresaw
        found = _of_storage(error) or _of_files(error) or crash_reports.reported(error)
        if found is None:
            raise
        terminal.print_error(found)
        sys.exit(1)


def _names() -> list[str]:
    """What migrations there are; while the settings cannot be used, those of the project."""
    try:
        return settings.load().registry.names
    except PipelineError:
        # A command that needs a setting says what is wrong; help needs none.
        return registry.find().names


def _of_storage(error: Exception) -> TargetError | None:
    """What is said where the target went away under Dagster; None for anything else."""
    # Dagster is loaded already if it has failed, and slow to load if it has not been used.
    from pipeline.orchestration.instance import storage

    if not isinstance(error, storage.ERRORS):
        return None
    return storage.lost(error, settings.load())


def _of_files(error: Exception) -> FilesError | None:
    """What the system says of a file or a full disk; None for anything else."""
    if not isinstance(error, OSError):
        return None
    if not isinstance(error.filename, str) and error.errno not in FULL:
        return None
    return FilesError.from_system(error, settings.load().pipeline_home)
