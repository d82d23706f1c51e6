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

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console
from pipeline.config import environment, settings
from pipeline.core import progress
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.common import printing, report
from pipeline.orchestration.instance import storage
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import validate


def prepare_databases(migration: Migration, *, quiet: bool = False) -> environment.Databases:
    """Prepare both databases and the database of Dagster's records; print the target.

    Raises:
        PipelineError: a setting or a database is not usable.
    """
    with progress.waiting("preparing both databases"):
        server = prepare_server()
        # The job's session connects while the job is loaded.
        Target.open_ahead(server.target_url)
        found = environment.databases(settings.load(), migration)
        validate(found.source)
    if not quiet:
        terminal.print_target(found)
    return found


def prepare_server() -> environment.Server:
    """Prepare the target alone, and the database of Dagster's records.

    Raises:
        PipelineError: a setting or a database is not usable.
    """
    with progress.waiting("preparing the target"):
        found = storage.ready(settings.load())
    if found.records.advice is not None:
        problem, remedy = found.records.advice
        terminal.complain(f"{problem}. {remedy}.", style="yellow")
    return found


def run(
    job_name: str,
    migration: Migration,
    *,
    tables: list[str] | None = None,
    config: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> int:
    """Run a job, print what it did and what needs attention; returns the exit code."""
    started = time.perf_counter()
    result = result_of(job_name, tables=tables, config=config)
    found = report.tables_of(result.all_events)
    printing.show(console, found, run_id=result.run_id, verbose=verbose, address=migration.address)
    evidence = settings.load().reports / result.run_id / "evidence.html"
    if evidence.exists():
        terminal.say(f"evidence {evidence}")
    if result.success and all(table.proven for table in found):
        seconds = time.perf_counter() - started
        sentence, style = printing.last_line(found, seconds, migration.address)
        terminal.say(sentence, style=style)
        return 1 if any(table.unresolved for table in found) else 0
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
        terminal.complain(sentence)
    terminal.complain(f"failed, run {result.run_id}")
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
