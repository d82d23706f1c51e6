"""What commands share: consoles, the migration argument, and questions at the terminal."""

import difflib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import environment, settings
from pipeline.core import private, progress
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.core.messages import MIGRATE, SOURCE_SETTING, message
from pipeline.core.quoting import printable
from pipeline.migrations.declaration import Beside, Migration
from pipeline.postgres.target import Target
from pipeline.reporting import grids
from pipeline.sqlite.origin import File
from pipeline.sqlite.snapshot import validate

console = grids.console_on()
errors = grids.console_on(stderr=True)

_WHICH = typer.Argument(metavar="MIGRATION")

Which = Annotated[str | None, _WHICH]
"""The argument that names the migration of a command."""

Verbose = Annotated[
    bool, typer.Option("--verbose", help="Print every table, every reason and every check.")
]
"""The option that prints everything."""


def describe(names: Iterable[str]) -> None:
    """Name the migrations in the help of commands."""
    _WHICH.help = f"{' or '.join(names)}; the default is the first in MIGRATIONS."


def meant(name: str | None) -> Migration:
    """The migration of this name, or the first enabled one.

    Raises:
        SettingsError: no migration has this name, or it is not enabled.
    """
    if name is None:
        return settings.load().enabled[0]
    known = settings.load().registry
    found = known.get(name)
    if found is None:
        raise SettingsError(
            f"No migration is called {name}",
            remedy=f"{_near(name, known.names)}Use {' or '.join(known.names)}",
        )
    return require_enabled(found)


def _near(name: str, names: Iterable[str]) -> str:
    """The question whether a similar name was meant; empty if none is similar."""
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {found[0]}? " if found else ""


@contextmanager
def selected_migration(which: str | None) -> Iterator[Migration]:
    """Run a block for a migration; errors in it name its commands and its setting.

    Raises:
        SettingsError: no migration has this name, or it is not enabled.
    """
    with errors_name_migration(meant(which)) as migration:
        yield migration


@contextmanager
def errors_name_migration(migration: Migration) -> Iterator[Migration]:
    """Run a block whose errors name the commands and the setting of a migration."""
    try:
        yield migration
    except PipelineError as error:
        error.for_migration(migration.address)
        raise


def as_utf8() -> None:
    """Print UTF-8 from now on, because programs read the output."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def say(text: str, *, style: str = "") -> None:
    """Print a sentence."""
    grids.say(console, text, style=style)


def complain(text: str, *, style: str = "red") -> None:
    """Print a sentence to standard error."""
    grids.say(errors, text, style=style)


def print_error(error: PipelineError) -> None:
    """Print an error to standard error."""
    complain(str(error))


@contextmanager
def loading_dagster() -> Iterator[None]:
    """Name what takes a second, around an import of modules that need Dagster."""
    with progress.waiting("loading Dagster"):
        yield


def server() -> environment.Server:
    """The target alone, without Dagster's tables.

    Raises:
        PipelineError: a setting or the target is not usable.
    """
    loaded = settings.load()
    private.home(loaded.pipeline_home)
    found = environment.server(loaded)
    environment.require_session(found)
    return found


def source(migration: Migration) -> Path:
    """The source file alone.

    Raises:
        SettingsError: no source is configured.
    """
    loaded = settings.load()
    if not loaded.source_url(migration) and not loaded.sample_path(migration).exists():
        raise SettingsError(
            "No source is configured yet",
            remedy=message("Set ", SOURCE_SETTING, ", or run ", MIGRATE),
        )
    return environment.source_file(loaded, migration)


def print_json(value: object) -> None:
    """Print a value for programs, with invisible letters escaped."""
    as_utf8()
    for line in json.dumps(value, ensure_ascii=False, indent=2).split("\n"):
        print(printable(line))


def print_source(migration: Migration) -> None:
    """Print the address of the source at once, before anything that takes time.

    Raises:
        PipelineError: a setting or the file is not usable.
    """
    loaded = settings.load()
    private.home(loaded.pipeline_home)
    origin = loaded.origin(migration)
    if isinstance(origin, File) and loaded.source_url(migration):
        validate(origin.path)
    say(f"source  {origin.shown}")
    sys.stdout.flush()


def print_target(found: environment.Server) -> None:
    """Print the address of the target."""
    say(f"target  {found.target_shown}")
    sys.stdout.flush()


@contextmanager
def opened(found: environment.Server) -> Iterator[Target]:
    """Open a session with the target; a ledger of an older version is updated."""
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        environment.update_ledger(target)
        yield target


def holding(table: str) -> Migration:
    """The migration that a table belongs to.

    Raises:
        SettingsError: no migration has this table, or its migration is not enabled.
    """
    found = settings.load().registry.holding(table)
    if found is None:
        names = [each.name for migration in settings.load().enabled for each in migration.tables]
        raise SettingsError(
            f"No table is called {table}",
            remedy=f"{_near(table, names)}Use one of {', '.join(names)}",
        )
    return require_enabled(found)


def having(kind: type[Beside]) -> Migration:
    """The migration that declares this kind of addition, such as search or Anki.

    Raises:
        SettingsError: none does.
    """
    found = settings.load().registry.having(kind)
    if found is None:
        raise SettingsError(
            f"No migration declares {kind.__name__}", remedy="Declare it in a migration"
        )
    return found


def require_enabled(migration: Migration) -> Migration:
    """Refuse a migration that is not enabled.

    Raises:
        SettingsError: it is not.
    """
    enabled = settings.load().enabled
    if migration not in enabled:
        raise SettingsError(
            f"The migration {migration.name} is not enabled",
            remedy=f"Set MIGRATIONS={','.join([each.name for each in enabled] + [migration.name])}",
        )
    return migration


def ids(text: str | None, *, option: str = "--only") -> list[int]:
    """Parse ids separated by commas.

    Raises:
        SettingsError: the text is something else.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or (text is not None and not parts):
        raise SettingsError(f"{option} cannot be {text!r}", remedy="Write ids like 1,2,3")
    return [int(part) for part in parts]


def confirm(question: str, *, yes: bool) -> None:
    """Ask a question at the terminal.

    Raises:
        SettingsError: standard input is not a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError(
            "This command asks for confirmation, but standard input is not a terminal",
            remedy="Add --yes to confirm",
        )
    typer.confirm(question, abort=True)
