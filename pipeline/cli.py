"""The command ``pipeline``: thin commands, each runs the Dagster job of its name, in this process.

Exit codes: 0 when every blocking check passed, 1 when a run failed, 2 when nothing was tried
because a setting or a database is not usable.
"""

import logging
import sys
import warnings

import typer

from pipeline import faults
from pipeline.commands import anki, backups, cutover, moves, operating, rejected, terminal, track
from pipeline.commands import realtime as realtime_commands
from pipeline.move.errors import PipelineError
from pipeline.surroundings import OutputError

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
app.add_typer(track.tracked, name="track")
app.command()(moves.verify)
app.command()(moves.redrive)
app.add_typer(rejected.kept, name="quarantine")
app.add_typer(backups.kept, name="backup")
app.add_typer(backups.restored, name="restore")
app.add_typer(cutover.over, name="cutover")
app.command()(cutover.rollback)
app.add_typer(anki.followed, name="anki")
app.add_typer(realtime_commands.told, name="realtime")
app.command()(moves.selftest)
app.command()(operating.dev)
app.command()(operating.serve)
app.command()(operating.health)
app.add_typer(operating.alert, name="alert")


def main() -> None:
    """Entry point of the command ``pipeline``; a failure is one sentence, not a traceback."""
    warnings.filterwarnings("ignore", module="dagster")
    logging.getLogger().addFilter(_is_news)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OutputError as error:
        terminal.say_error(error)
        sys.exit(1)
    except PipelineError as error:
        terminal.say_error(error)
        sys.exit(2)
    except Exception as error:  # whatever nobody foresaw
        fault = faults.kept(error)
        if fault is None:
            raise
        terminal.say_error(fault)
        sys.exit(1)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that Dagster connects once more: if that fails, an error says why, once."""
    return not str(record.msg).startswith("Retrying failed database")
