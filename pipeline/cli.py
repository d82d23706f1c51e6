"""Thin commands: each runs the Dagster job of its name, in this process, recorded like any run.

Exit codes: 0 when every blocking check passed, 1 when a run failed, 2 when nothing was tried
because a setting or a database is not usable.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import dagster as dg
import typer
from pydantic import TypeAdapter
from rich.console import Console

from pipeline import environment, progress, report, settings
from pipeline.embedded import ensure_server
from pipeline.metadata import PLAN
from pipeline.move.errors import PipelineError, SettingsError
from pipeline.move.plan import TablePlan
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
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON alone.")] = False,
) -> None:
    """Tell what a move would do, without touching the target."""
    found = _ready()
    look_at(found.source)
    if not as_json:
        _say_where(found)
    result = _result_of("plan")
    if not result.success:
        raise typer.Exit(_failed(result))
    (materialized,) = result.asset_materializations_for_node("plan")
    data: Any = materialized.metadata[PLAN].value
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        report.show_plan(console, TypeAdapter(list[TablePlan]).validate_python(data))


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
def selftest() -> None:
    """Plant one fault at a time in a scratch copy, and show which check catches it."""
    from pipeline.selftest import attack

    outcomes = []
    with console.status("moving a sample into a scratch database") as status:
        for outcome in attack(ensure_server(settings.load().server_data)):
            status.update(outcome.name)
            outcomes.append(outcome)
    report.show_outcomes(console, outcomes)
    wrong = [outcome.name for outcome in outcomes if not outcome.right]
    if wrong:
        errors.print(f"not judged rightly: {', '.join(wrong)}", style="red")
    raise typer.Exit(1 if wrong else 0)


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
    """Run a job of tables with live output; returns the exit code."""
    started = time.perf_counter()
    result = _result_of(job_name)
    tables = report.tables_of(result.all_events)
    report.show(console, tables)
    evidence = settings.load().reports / result.run_id / "evidence.html"
    if evidence.exists():
        console.print(f"evidence {evidence}", markup=False, soft_wrap=True)
    if result.success and all(table.proven for table in tables):
        seconds = time.perf_counter() - started
        console.print(f"[green]proven[/] in {seconds:.1f} s, run {result.run_id}")
        return 0
    return _failed(result)


def _result_of(job_name: str) -> dg.ExecuteInProcessResult:
    # Loading what Dagster runs fails on some settings, which is to be told like any other failure.
    from pipeline import runs

    with runs.instance() as instance, _live():
        return runs.run(job_name, opened=instance)


def _failed(result: dg.ExecuteInProcessResult) -> int:
    for sentence in report.failures_of(result):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed, run {result.run_id}", style="red")
    return 1


@contextmanager
def _live() -> Iterator[None]:
    with report.Bars() as bars, progress.watched_by(bars):
        yield
