"""The command that copies any SQLite database; it needs neither declarations nor Dagster."""

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import URL

from pipeline.cli.commands import display, terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import environment
from pipeline.config.environment import Server
from pipeline.config.settings import load, pooled
from pipeline.copy import plan, run
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.source.prepare import prepared
from pipeline.core import private, urls
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.core.messages import Address
from pipeline.postgres.target import Target
from pipeline.reporting import copies, copy_evidence, grids
from pipeline.sqlite import origin
from pipeline.sqlite.snapshot import validate

_CASTS = typer.Option(
    "--cast",
    metavar="TABLE.COLUMN=TYPE",
    help="The type of a column, such as bigint, timestamptz or milliseconds. Can be repeated.",
)


def copy(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The SQLite database: sqlite:///PATH (four slashes for an absolute path),"
            " dump:///PATH for an SQL dump, or libsql://HOST for a database on Turso.",
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="postgresql://USER:PASSWORD@HOST:5432/DATABASE. The default is DATABASE_URL;"
            " without it, a PostgreSQL server is started in PIPELINE_HOME.",
        ),
    ] = None,
    schema: Annotated[
        str, typer.Option(help="The schema that receives the tables; it is created if missing.")
    ] = "public",
    cast: Annotated[list[str] | None, _CASTS] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Do not copy this table. Can be repeated."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the SQL that a copy would run; needs no target."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare every value with an earlier copy; write nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Copy an SQLite database to PostgreSQL and prove that every value arrived.

    A second copy compares both databases and writes only what differs. Exit codes: 0 if every row
    and every value is in the target, 1 if some are not, 2 if the copy could not start.
    """
    loaded = load()
    options = CopyOptions(
        run_id=f"copy-{secrets.token_hex(6)}",
        schema=_name(schema),
        casts=casts_of(cast or []),
        exclude=frozenset(exclude or []),
        delete_share=loaded.max_delete_share,
        verify=verify,
        lock_seconds=loaded.lock_seconds,
    )
    private.home(loaded.pipeline_home)
    with _arguments_named(target):
        here = Path.cwd()
        found = origin.parse(source, token=loaded.turso_auth_token, name="SOURCE", folder=here)
        if isinstance(found, origin.File):
            validate(found.path)
        server = None if dry_run else _server(target)
        if not as_json and server is not None:
            say(f"source  {found.shown}")
            say(f"target  {server.target_shown}")
            sys.stdout.flush()
        with prepared(found, home=loaded.pipeline_home) as source_:
            planned = plan.plan(source_, options)
            if server is None:
                _print_plan(planned, as_json=as_json)
                return
            result, failure = _run(planned, server, options, quiet=as_json)
    data = copy_evidence.as_json(result, planned)
    evidence = copy_evidence.record(loaded.reports / options.run_id, data)
    if as_json:
        terminal.print_json({**data, "evidence": str(evidence)})
    else:
        for grid in copies.grids(result):
            grids.show(console, grid)
        say(f"evidence {evidence}")
    if failure is not None:
        terminal.print_error(failure)
    if not as_json:
        line = copies.last(result)
        say(line.text, style=line.style)
    raise typer.Exit(0 if result.proven and failure is None else 1)


@contextlib.contextmanager
def _arguments_named(target: str | None) -> Iterator[None]:
    """Run a block whose errors name the arguments instead of settings."""
    try:
        yield
    except PipelineError as error:
        error.for_migration(Address("", "SOURCE"))
        if target is not None:
            error.advice = error.remedy.replace("DATABASE_URL", "TARGET")
        raise


def _run(
    planned: plan.CopyPlan, server: Server, options: CopyOptions, *, quiet: bool
) -> tuple[CopyResult, PipelineError | None]:
    """Run a copy; an error that ended it after its first table is returned with what it did.

    Raises:
        PipelineError: the copy could not start.
    """
    lines, ended = copies.Lines.of(planned), list[TableResult]()

    def on_table(result: TableResult) -> None:
        ended.append(result)
        if not quiet:
            line = lines.of_table(result)
            display.say(line.text, style=line.style)

    def connect() -> contextlib.AbstractContextManager[Target]:
        return Target.connect(
            server.target_url, shown=server.target_shown, application_name="pipeline copy"
        )

    started = time.perf_counter()
    with connect() as target:
        # A ledger of an older version.
        environment.update_ledger(target)
    try:
        shown = server.target_shown
        return run.run(planned, connect, options, shown=shown, on_table=on_table), None
    except PipelineError as error:
        if not ended:
            raise
        names = {result.table for result in ended}
        labels = [table.label for table in planned.tables.values()]
        return CopyResult(
            options.run_id,
            planned.source.source,
            server.target_shown,
            tuple(ended),
            planned.left,
            planned.behind,
            hints=tuple(planned.hints),
            missing=tuple(label for label in labels if label not in names),
            seconds=time.perf_counter() - started,
        ), error


def _print_plan(planned: plan.CopyPlan, *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(copy_evidence.plan_as_json(planned))
        return
    terminal.as_utf8()
    for line in copies.ddl(planned):
        print(line)


def _server(target: str | None) -> Server:
    if target is None:
        found = environment.server(load())
    else:
        url: URL = urls.postgres(target, name="TARGET")
        found = Server(url)
    if pooled(found.target):
        raise SettingsError(
            f"The target is a transaction pooler (port {found.target.port}), which does not"
            " support the lock and the transaction of a copy",
            remedy="Use the direct or the session connection (port 5432)",
        )
    return found


def _name(schema: str) -> str:
    if not schema or "\0" in schema or len(schema.encode()) > 63:
        raise SettingsError(f"--schema cannot be {schema!r}", remedy="Use a name of 1 to 63 bytes")
    if schema.startswith("pg_") or schema in ("information_schema", "migration", "dagster"):
        raise SettingsError(
            f"--schema cannot be {schema}, which belongs to PostgreSQL or to the pipeline",
            remedy="Use another name",
        )
    return schema


def casts_of(given: list[str]) -> dict[str, str]:
    """The types of ``--cast`` by column.

    Raises:
        SettingsError: an option names no column or no type.
    """
    casts = {}
    for each in given:
        column, equals, kind = each.rpartition("=")
        if not equals or "." not in column or not kind.strip():
            raise SettingsError(
                f"--cast {each} names no column or no type",
                remedy="Write it as --cast table.column=type",
            )
        casts[column] = kind.strip()
    return casts
