"""The command that writes a migration of the user's own."""

import keyword
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.sources.copying import casts_of
from pipeline.cli.commands.terminal import as_utf8, console, say
from pipeline.config.settings import Settings, load
from pipeline.copy import plan
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.source.prepare import prepared
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core import private
from pipeline.core.errors import FilesError, PipelineError, SettingsError
from pipeline.core.messages import Address
from pipeline.core.quoting import counted, printable
from pipeline.mapping.matching import folded
from pipeline.migrations import registry
from pipeline.migrations.declaration import Migration
from pipeline.scaffold import module
from pipeline.scaffold.difference import Difference, differences
from pipeline.sqlite import origin
from pipeline.sqlite.snapshot import validate
from pipeline.sqlite.structure.model import Schema

_NAME = re.compile("[a-z][a-z0-9_]*")


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the migration, such as inventory.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="The SQLite database: sqlite:///PATH, dump:///PATH or libsql://HOST. It may be"
            " omitted if the module exists.",
        ),
    ] = None,
    cast: Annotated[
        list[str] | None,
        typer.Option(
            "--cast",
            metavar="TABLE.COLUMN=TYPE",
            help="The type of a column, such as bigint or timestamptz. Can be repeated.",
        ),
    ] = None,
    stays: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="This table stays in SQLite. Can be repeated."),
    ] = None,
) -> None:
    """Write a migration for an SQLite database, or compare an existing one with its source.

    The module is written to the folder migrations and is yours to change; it is never written
    again. Exit codes: 0 if the migration covers the whole source, 1 if it does not, 2 if nothing
    was written.
    """
    loaded = load()
    path = (loaded.migrations_folder or private.PROJECT / registry.FOLDER) / f"{name}.py"
    existing = _existing(loaded, name, path)
    given = source or (existing and loaded.source_url(existing))
    if not given:
        raise SettingsError("No source is named", remedy="Add --from sqlite:///PATH")
    here = Path.cwd() if source else private.PROJECT
    private.home(loaded.pipeline_home)
    try:
        found = origin.parse(given, token=loaded.turso_auth_token, name="--from", folder=here)
        if isinstance(found, origin.File):
            validate(found.path)
        say(f"source  {found.shown}")
        sys.stdout.flush()
        with prepared(found, home=loaded.pipeline_home) as source_:
            excluded = frozenset([*(stays or ()), *_staying(existing, source_.schema)])
            options = CopyOptions(run_id="", casts=casts_of(cast or []), exclude=excluded)
            planned = plan.plan(source_, options)
            naming = module.Naming(
                name, f"{name.upper()}_DATABASE_URL", _url(found), _command(name), stays or ()
            )
            written = module.write(planned, naming)
            differing = _differing(loaded, source_, existing, written)
    except PipelineError as error:
        error.for_migration(Address("", "--from"))
        raise
    if existing is None:
        _create(path, written.text)
        _print_written(path, planned, written)
        first = f"Add {name} to MIGRATIONS, read it" if loaded.migrations else "Read it"
        say(f"{first}, then run pipeline plan {name} and pipeline migrate {name}.")
    else:
        _print_differences(path, differing)
    for refused in written.refused:
        say(f"not possible yet  {refused.sentence}", style="yellow")
    raise typer.Exit(1 if differing or written.refused else 0)


def _existing(loaded: Settings, name: str, path: Path) -> Migration | None:
    """The migration of a module that is there; None if there is none."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise SettingsError(
            f"{name!r} cannot be the name of a migration",
            remedy="Use small letters, digits and _, and a letter first, such as my_content",
        )
    found = loaded.registry.get(name)
    if found is not None and not path.exists():
        raise SettingsError(
            f"There is a migration {name} already, which {path} does not declare",
            remedy="Choose another name",
        )
    if found is None and path.exists():
        raise SettingsError(
            f"{path} exists and declares no migration {name}", remedy="Choose another name"
        )
    return found


def _differing(
    loaded: Settings, source: PreparedSource, existing: Migration | None, fresh: module.Scaffold
) -> list[Difference]:
    if existing is None:
        return []
    return [*differences(source, existing, fresh, loaded.policies(existing))]


def _staying(existing: Migration | None, schema: Schema) -> list[str]:
    """The tables of the source that stay there by declaration."""
    there = {folded(table.name) for table in schema.tables}
    there |= {folded(table.name) for table in schema.virtual}
    return [each for each in (existing.stays if existing else ()) if folded(each) in there]


def _url(found: origin.Origin) -> str:
    """The URL of a source for a module; files of the project's folder have relative paths."""
    if isinstance(found, origin.Remote):
        return found.shown
    path: Path = found.path.resolve()
    shown = path.relative_to(private.PROJECT) if path.is_relative_to(private.PROJECT) else path
    return f"{'dump' if isinstance(found, origin.Dump) else 'sqlite'}:///{shown}"


def _command(name: str) -> str:
    return f"`pipeline new {shlex.quote(name)}`"


def _create(path: Path, text: str) -> None:
    """Write a module that does not exist yet, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise FilesError.from_system(error, path) from error


def _print_written(path: Path, planned: plan.CopyPlan, written: module.Scaffold) -> None:
    rows = sum(table.rows for table in planned.tables.values())
    say(f"census  {counted(len(planned.tables), 'table')}, {counted(rows, 'row')}")
    for left in planned.all_left:
        say(f"left out          {printable(left.sentence)}", style="yellow")
    say(f"written {path}: {counted(len(written.tables), 'table')}")


def _print_differences(path: Path, found: list[Difference]) -> None:
    if not found:
        say(f"{path} fits the source", style="green")
        return
    say(f"{path} was not changed, and does not fit the source:")
    for each in found:
        say(f"  {printable(each.place)} {printable(each.sentence)}", style="yellow")
        if each.text is not None:
            as_utf8()
            console.print()
            for line in each.text.splitlines():
                print(f"    {line}")
            console.print()
