"""How commands run a job of Dagster in this process, and tell what came of it.

Dagster takes a second to load, so a command imports this module when it has a job to run.
"""

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


def ready(migration: Migration) -> environment.Databases:
    """Both databases, made sure to be there, with Dagster's tables in the target.

    Raises:
        PipelineError: a setting or the target is not usable.
    """
    loaded = settings.load()
    storage.ready(loaded)
    return environment.databases(loaded, migration)


def server() -> environment.Server:
    """The target alone, made sure to be there, with Dagster's tables in it.

    Raises:
        PipelineError: a setting or the target is not usable.
    """
    return storage.ready(settings.load())


def run(
    job_name: str,
    *,
    tables: list[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> int:
    """Run a job of tables with live output; returns the exit code."""
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
    """Run a job with live output."""
    # Loading what Dagster runs fails on some settings, which is to be told like any other failure.
    from pipeline.orchestration import runs

    with runs.instance() as instance, _live():
        return runs.run(job_name, opened=instance, tables=tables, config=config)


def failed(result: dg.ExecuteInProcessResult) -> int:
    """Print why a run failed; returns the exit code."""
    # Several steps may have failed for one reason.
    for sentence in dict.fromkeys(report.failures_of(result)):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed, run {result.run_id}", style="red")
    return 1


@contextmanager
def _live() -> Iterator[None]:
    # Dagster writes a line for each event that it cannot record, and then fails with the reason.
    errors_but_events: Any = _Without(sys.stderr, "Exception while writing logger call")
    with redirect_stderr(errors_but_events), report.Bars() as bars, progress.watched_by(bars):
        yield


class _Without:
    """A stream that leaves out what begins with some words."""

    def __init__(self, stream: TextIO, words: str) -> None:
        self._stream = stream
        self._words = words

    def write(self, text: str) -> int:
        return len(text) if text.startswith(self._words) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
