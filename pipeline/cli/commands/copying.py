"""The command that copies any SQLite database; it needs neither declarations nor Dagster."""

import contextlib
import json
import secrets
from typing import Annotated, Any

import typer
from sqlalchemy.engine import URL

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import say
from pipeline.config import environment
from pipeline.config.environment import Server
from pipeline.config.settings import load, pooled
from pipeline.copy import plan, run
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import TableResult
from pipeline.copy.source.prepare import prepared
from pipeline.core import private, urls
from pipeline.core.errors import SettingsError
from pipeline.core.quoting import printable
from pipeline.postgres.target import Target
from pipeline.reporting import copies
from pipeline.sqlite import origin

_CASTS = typer.Option(
    "--cast",
    metavar="TABLE.COLUMN=TYPE",
    help="The type of a column, such as bigint, timestamptz or milliseconds; may be repeated.",
)


def copy(
    source: Annotated[str, typer.Argument(help="sqlite:///PATH, dump:///PATH or libsql://HOST.")],
    target: Annotated[
        str | None,
        typer.Argument(help="postgresql://USER@HOST/DATABASE; by default DATABASE_URL."),
    ] = None,
    schema: Annotated[str, typer.Option(help="The schema of the tables.")] = "public",
    cast: Annotated[list[str] | None, _CASTS] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="Leave out a table; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the DDL; no target is needed.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with an earlier copy, and write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Copy any SQLite database to PostgreSQL, and prove every value.

    A second copy compares, and writes only what differs. Exit codes: 0 if all rows and values are
    in the target; 1 if some are not; 2 if nothing was started.
    """
    loaded = load()
    options = CopyOptions(
        run_id=f"copy-{secrets.token_hex(6)}",
        schema=_name(schema),
        casts=_casts(cast or []),
        exclude=frozenset(exclude or []),
        delete_share=loaded.max_delete_share,
        verify=verify,
        lock_seconds=loaded.lock_seconds,
    )
    private.home(loaded.pipeline_home)
    found = origin.parse(source, token=loaded.turso_auth_token, name="The source")
    server = None if dry_run else _server(target)
    if not as_json and not dry_run and server is not None:
        say(f"source  {found.shown}")
        say(f"target  {server.target_shown}")
    with prepared(found, home=loaded.pipeline_home) as source_:
        planned = plan.plan(source_, options)
        if server is None:
            _print_plan(planned, as_json=as_json)
            return
        with _session(server):
            result = run.run(
                planned,
                lambda: Target.connect(
                    server.target_url, shown=server.target_shown, application_name="pipeline copy"
                ),
                options,
                shown=server.target_shown,
                on_table=_silent if as_json else _said,
            )
    if as_json:
        _print_json(copies.as_json(result, planned))
    else:
        for line in copies.summary(result):
            say(line.text, style=line.style)
    raise typer.Exit(0 if result.proven else 1)


@contextlib.contextmanager
def _session(server: Server) -> Any:
    """Bring a ledger of an older version up to date first."""
    with Target.connect(server.target_url, shown=server.target_shown) as target:
        environment.update_ledger(target)
    yield


def _print_plan(planned: plan.CopyPlan, *, as_json: bool) -> None:
    if as_json:
        _print_json(copies.plan_as_json(planned))
        return
    terminal.as_utf8()
    for line in copies.ddl(planned):
        print(line)


def _print_json(value: object) -> None:
    terminal.as_utf8()
    for line in json.dumps(value, ensure_ascii=False, indent=2).split("\n"):
        print(printable(line))


def _said(result: TableResult) -> None:
    line = copies.of_table(result)
    say(line.text, style=line.style)


def _silent(_: TableResult) -> None:
    pass


def _server(target: str | None) -> Server:
    if target is None:
        found = environment.server(load())
    else:
        url: URL = urls.postgres(target, name="The target")
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


def _casts(given: list[str]) -> dict[str, str]:
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
