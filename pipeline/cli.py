"""Thin commands: each runs the Dagster job of its name, in this process, recorded like any run.

Exit codes: 0 when every blocking check passed, 1 when a run failed, 2 when nothing was tried
because a setting or a database is not usable.
"""

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from pipeline import environment, progress, report, settings
from pipeline.move.errors import PipelineError, SettingsError
from pipeline.move.snapshot import look_at

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Move tables from SQLite to PostgreSQL and prove that every value arrived.",
)
_WIDTH = None if sys.stdout.isatty() else 120
console = Console(highlight=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False)


def main() -> None:
    """Entry point of the command ``pipeline``; a failure is one sentence, not a traceback."""
    warnings.filterwarnings("ignore", module="dagster")
    try:
        app()
    except PipelineError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)


@app.command()
def migrate() -> None:
    """Move the content tables and print what moved, what was set aside and what was proven."""
    found = _ready()
    look_at(found.source)
    _say_where(found)
    raise typer.Exit(_run("migrate"))


@app.command()
def verify() -> None:
    """Check what is committed, value by value, against source, ledger and declaration."""
    found = _ready()
    look_at(found.source)
    _say_where(found)
    raise typer.Exit(_run("verify"))


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Where the UI listens, on 127.0.0.1.")] = 3000,
) -> None:
    """Open the Dagster UI and run its daemon on the same databases, until Ctrl-C."""
    _ready()
    workspace = ["-w", str(settings.PROJECT / "workspace.yaml")]
    commands = [
        ["dagster-webserver", "-h", "127.0.0.1", "-p", str(port), *workspace],
        ["dagster-daemon", "run", *workspace],
    ]
    running = [
        subprocess.Popen([f"{sys.prefix}/bin/{command[0]}", *command[1:]], cwd=settings.PROJECT)
        for command in commands
    ]
    console.print(f"Dagster UI on http://127.0.0.1:{port} (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in running):
            time.sleep(0.3)
        raise SettingsError(
            f"Dagster's UI or its daemon ended by itself; port {port} may be in use",
            remedy="Read the lines above, or name another one with --port",
        )
    except KeyboardInterrupt:
        pass
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _ready() -> environment.Databases:
    loaded = settings.load()
    found = environment.databases(loaded)
    environment.prepare_dagster(found, loaded)
    return found


def _say_where(found: environment.Databases) -> None:
    console.print(f"source  {found.source}\ntarget  {found.target_shown}", markup=False)


def _run(job_name: str) -> int:
    """Run a job with live output; returns the exit code."""
    # Loading what Dagster runs fails on some settings, which is to be told like any other failure.
    from pipeline import runs

    started = time.perf_counter()
    with runs.instance() as instance, _live():
        result = runs.run(job_name, opened=instance)
    tables = report.tables_of(result.all_events)
    report.show(console, tables)
    seconds = time.perf_counter() - started
    if result.success and all(table.proven for table in tables):
        console.print(f"[green]proven[/] in {seconds:.1f} s, run {result.run_id}")
        return 0
    for sentence in report.failures_of(result):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed after {seconds:.1f} s, run {result.run_id}", style="red")
    return 1


@contextmanager
def _live() -> Iterator[None]:
    with report.Bars() as bars, progress.watched_by(bars):
        yield
