"""The command ``pipeline``. Most commands run the Dagster job of their name in this process.

Exit codes: 0 if every blocking check passed; 1 if a run failed, the output could not be written, or
the program has a fault; 2 if nothing was started because a setting or a database is not usable.
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from pipeline.cli import crash_reports
from pipeline.cli.commands import terminal
from pipeline.cli.commands.display import Display
from pipeline.cli.surroundings import OutputError
from pipeline.config import settings
from pipeline.core import private, progress
from pipeline.core.errors import FULL, FilesError, PipelineError, TargetError
from pipeline.migrations import registry
from pipeline.reporting import grids

_COMMANDS = {
    "doctor": ("moves", "doctor"),
    "census": ("sources.census", "census"),
    "plan": ("moves", "plan"),
    "copy": ("sources.copying", "copy"),
    "new": ("sources.scaffolding", "new"),
    "schema": ("moves", "show_schema"),
    "migrate": ("moves", "migrate"),
    "sync": ("moves", "sync"),
    "track": ("sources.tracking", "app"),
    "verify": ("moves", "verify"),
    "redrive": ("moves", "redrive"),
    "quarantine": ("quarantine", "app"),
    "backup": ("backups", "group"),
    "restore": ("backups", "restored"),
    "cutover": ("cutover", "app"),
    "rollback": ("cutover", "rollback"),
    "anki": ("anki", "app"),
    "realtime": ("realtime", "app"),
    "selftest": ("moves", "selftest"),
    "dev": ("operating", "dev"),
    "serve": ("operating", "serve"),
    "health": ("operating", "health"),
    "alert": ("operating", "alert"),
}
"""Each command: its module and its name there. To load all modules takes half a second."""


def build(names: Sequence[str], *, only: str | None = None) -> typer.Typer:
    """The commands, for migrations of these names; or the only one that is needed."""
    terminal.describe(names)
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        # Boxes are neither for programs nor for narrow terminals.
        rich_markup_mode=None,
        context_settings={"terminal_width": grids.medium_of(terminal.console).width or 80},
    )
    app.callback()(_pipeline)
    for name, (module, attribute) in _COMMANDS.items():
        if only in _COMMANDS and only != name:
            continue
        found = getattr(importlib.import_module(f"pipeline.cli.commands.{module}"), attribute)
        if attribute == "group":
            found = found(names)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _pipeline() -> None:
    """Move tables from SQLite to PostgreSQL and prove that every value arrived."""


def main() -> None:
    """Run the command line; a failure prints one sentence, not a traceback."""
    private.guard_process()
    warnings.filterwarnings("ignore", module="dagster")
    # Errors are reported as sentences; the log lines of libraries would repeat them.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        try:
            with Display() as display, progress.watched_by(display):
                _described(build(_names(), only=next(iter(sys.argv[1:]), None)))()
        finally:
            sys.stdout.flush()
    except OutputError as error:
        terminal.print_error(error)
        sys.exit(1)
    except PipelineError as error:
        terminal.print_error(error)
        sys.exit(2)
    except Exception as error:  # unforeseen
        found = _of_storage(error) or _of_files(error) or crash_reports.reported(error)
        if found is None:
            raise
        terminal.print_error(found)
        sys.exit(1)


def _described(app: typer.Typer) -> Any:
    """The program, with whole sentences in its lists of commands."""
    program: Any = typer.main.get_command(app)
    groups = [program]
    while groups:
        for command in groups.pop().commands.values():
            command.short_help = (command.help or "").partition("\n\n")[0]
            groups += [command] if hasattr(command, "commands") else []
    return program


def _names() -> list[str]:
    """Names of all migrations; of the project's own if the settings are not usable."""
    try:
        return settings.load().registry.names
    except PipelineError:
        # A command that needs a setting reports the fault; help needs none.
        return registry.find().names


def _of_storage(error: Exception) -> TargetError | None:
    """The error for a target that Dagster lost during a run; None for other errors."""
    # If Dagster failed it is already imported; otherwise this import is slow but harmless.
    from pipeline.orchestration.instance import storage

    if not isinstance(error, storage.ERRORS):
        return None
    return storage.lost(error, settings.load())


def _of_files(error: Exception) -> FilesError | None:
    """The error for a file or a full disk; None for other errors."""
    if not isinstance(error, OSError):
        return None
    if not isinstance(error.filename, str) and error.errno not in FULL:
        return None
    return FilesError.from_system(error, settings.load().pipeline_home)
