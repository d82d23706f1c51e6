"""Run a Dagster job in this process and print its outcome.

Importing Dagster takes a second, so commands import this module only when they run a job.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO

import dagster as dg

from pipeline.cli.commands.terminal import console, errors
from pipeline.config import environment, settings
from pipeline.core import progress
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.common import report
from pipeline.orchestration.instance import storage
from pipeline.postgres.target import Target


def prepare_databases(migration: Migration) -> environment.Databases:
    """Prepare both databases and the database of Dagster's records.

    Raises:
        PipelineError: a setting or a database is not usable.
    """
    with progress.waiting("preparing both databases"):
        found = prepare_server()
        # The job's session connects while the job is loaded.
        Target.open_ahead(found.target_url)
        return environment.databases(settings.load(), migration)


def prepare_server() -> environment.Server:
    """Prepare the target alone, and the database of Dagster's records.

    Raises:
        PipelineError: a setting or a database is not usable.
    """
    with progress.waiting("preparing the target"):
        found = storage.ready(settings.load())
    if found.records.advice is not None:
        problem, remedy = found.records.advice
        errors.print(f"{problem}. {remedy}.", style="yellow", markup=False, soft_wrap=True)
    return found


def run(
    job_name: str,
    *,
    tables: list[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> int:
    """Run a job and print its tables and checks; returns the exit code."""
    started = time.perf_counter()
    result = result_of(job_name, tables=tables, config=config)
    found = report.tables_of(result.all_events)
    report.show(console, found)
    evidence = settings.load().reports / result.run_id / "evidence.html"
    if evidence.exists():
        console.print(f"evidence {evidence}", markup=False, soft_wrap=True)
    if result.success and all(table.proven for table in found):
        seconds = time.perf_counter() - started
        console.print(f"[green]proven[/] in {seconds:.1f} s, run {result.run_id}")
        return 0
    return failed(result)


def result_of(
    job_name: str,
    *,
    tables: list[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job."""
    # Importing the definitions reads the settings, which may be invalid.
    from pipeline.orchestration import runs

    with progress.waiting(job_name), contextlib.ExitStack() as stack:
        with progress.waiting("opening Dagster's records"):
            instance = stack.enter_context(runs.instance())
        stack.enter_context(_quiet())
        return runs.run(job_name, opened=instance, tables=tables, config=config)


def failed(result: dg.ExecuteInProcessResult) -> int:
    """Print why a run failed; returns the exit code."""
    # Several steps may have failed for the same reason.
    for sentence in dict.fromkeys(report.failures_of(result)):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed, run {result.run_id}", style="red")
    return 1


@contextmanager
def _quiet() -> Iterator[None]:
    # Dagster prints a line for each event that it cannot record, then fails with the reason.
    errors_but_events: Any = _Without(sys.stderr, "Exception while writing logger call")
    with redirect_stderr(errors_but_events):
        yield


class _Without:
    """A stream that drops texts with a certain beginning."""

    def __init__(self, stream: TextIO, words: str) -> None:
        self._stream = stream
        self._words = words

    def write(self, text: str) -> int:
        return len(text) if text.startswith(self._words) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
