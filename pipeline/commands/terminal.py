"""What commands share: where they print, and how they run a job and tell what came of it."""

import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, TextIO

import dagster as dg
import typer
from rich.console import Console

from pipeline import environment, progress, report, settings, storage
from pipeline.migrations.declaration import Beside, Migration
from pipeline.move.errors import PipelineError, SettingsError
from pipeline.move.messages import MIGRATE, SOURCE_SETTING, message
from pipeline.move.target import Target

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True, highlight=False)

_WHICH = typer.Argument(metavar="[MIGRATION]")

Which = Annotated[str | None, _WHICH]
"""The argument by which a command is told which migration it is for."""


def describe(names: Iterable[str]) -> None:
    """Let the help of commands name these migrations."""
    _WHICH.help = f"{' or '.join(names)}; otherwise the first of MIGRATIONS."


def meant(name: str | None) -> Migration:
    """The migration that is meant.

    Raises:
        SettingsError: there is none of this name, or it is not enabled.
    """
    if name is None:
        return settings.load().enabled[0]
    known = settings.load().registry
    found = known.get(name)
    if found is None:
        raise SettingsError(
            f"There is no migration {name}", remedy=f"Name {' or '.join(known.names)}"
        )
    return demand_enabled(found)


@contextmanager
def serving(which: str | None) -> Iterator[Migration]:
    """Serve the migration that is meant: what fails meanwhile names its commands and its setting.

    Raises:
        SettingsError: there is none of this name, or it is not enabled.
    """
    with addressing(meant(which)) as migration:
        yield migration


@contextmanager
def addressing(migration: Migration) -> Iterator[Migration]:
    """Let what fails meanwhile name the commands and the setting of a migration."""
    try:
        yield migration
    except PipelineError as error:
        error.addressed(migration.address)
        raise


def as_utf8() -> None:
    """Print UTF-8 from now on: programs read what follows, whatever the terminal knows."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def say_error(error: PipelineError) -> None:
    """Print why a command could not be tried."""
    errors.print(str(error), style="red", markup=False, soft_wrap=True)


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


def source(migration: Migration) -> Path:
    """The source file alone; the target is not needed.

    Raises:
        SettingsError: no source is set.
    """
    loaded = settings.load()
    if not loaded.source_url(migration) and not loaded.sample_path(migration).exists():
        raise SettingsError(
            "There is no source yet", remedy=message("Set ", SOURCE_SETTING, ", or run ", MIGRATE)
        )
    return environment.source_file(loaded, migration)


def say_where(found: environment.Databases, migration: Migration) -> None:
    """Print which databases are meant."""
    shown = settings.load().origin(migration).shown
    console.print(f"source  {shown}\ntarget  {found.target_shown}", markup=False)


@contextmanager
def opened(found: environment.Server) -> Iterator[Target]:
    """A session with the target."""
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        yield target


def holding(table: str) -> Migration:
    """The migration that a table belongs to.

    Raises:
        SettingsError: there is no such table, or its migration is not enabled.
    """
    found = settings.load().registry.holding(table)
    if found is None:
        names = [each.name for migration in settings.load().enabled for each in migration.tables]
        raise SettingsError(f"There is no table {table}", remedy=f"Name one of {', '.join(names)}")
    return demand_enabled(found)


def having(kind: type[Beside]) -> Migration:
    """The migration beside whose tables something of a kind hangs.

    Raises:
        SettingsError: there is none.
    """
    found = settings.load().registry.having(kind)
    if found is None:
        raise SettingsError(
            f"No migration declares {kind.__name__}", remedy="Declare it in the one that has it"
        )
    return found


def demand_enabled(migration: Migration) -> Migration:
    """A migration that Dagster loads.

    Raises:
        SettingsError: this one it does not.
    """
    enabled = settings.load().enabled
    if migration not in enabled:
        raise SettingsError(
            f"The migration {migration.name} is not enabled",
            remedy=f"Set MIGRATIONS={','.join([each.name for each in enabled] + [migration.name])}",
        )
    return migration


def run(
    job_name: str,
    *,
    tables: list[str] | None = None,
    full: bool = False,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Run a job of tables with live output; returns the exit code."""
    started = time.perf_counter()
    result = result_of(job_name, tables=tables, full=full, steps=steps)
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
    full: bool = False,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job with live output."""
    # Loading what Dagster runs fails on some settings, which is to be told like any other failure.
    from pipeline import runs

    with runs.instance() as instance, _live():
        return runs.run(job_name, opened=instance, tables=tables, full=full, steps=steps)


def failed(result: dg.ExecuteInProcessResult) -> int:
    """Print why a run failed; returns the exit code."""
    # Several steps may have failed for one reason.
    for sentence in dict.fromkeys(report.failures_of(result)):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed, run {result.run_id}", style="red")
    return 1


def ids(text: str | None, *, option: str = "--only") -> list[int]:
    """Ids that a person wrote with commas between.

    Raises:
        SettingsError: it is something else.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or (text is not None and not parts):
        raise SettingsError(f"{option} cannot be {text!r}", remedy="Write ids like 1,2,3")
    return [int(part) for part in parts]


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


def confirm(question: str, *, yes: bool) -> None:
    """Ask at a terminal.

    Raises:
        SettingsError: there is none.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("Nobody can be asked without a terminal", remedy="Add --yes")
    typer.confirm(question, abort=True)
