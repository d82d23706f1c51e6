"""Commands that examine both databases, move tables and verify them."""

import json
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, errors
from pipeline.config import environment, settings
from pipeline.core import private
from pipeline.core.quoting import printable
from pipeline.doctor.examination import examine
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import quarantine
from pipeline.move.run.plan import TablePlan
from pipeline.move.run.scope import Subset, root_table
from pipeline.postgres.embedded.server import ensure_server
from pipeline.postgres.target import Target
from pipeline.reporting import ddl, grids
from pipeline.sqlite.snapshot import validate


def doctor(which: terminal.Which = None) -> None:
    """Check both databases: integrity, connectivity, TLS, privileges, disk space."""
    # This is not a job: the database of Dagster's records may not answer.
    with (
        terminal.selected_migration(which) as migration,
        console.status("examining source and target"),
    ):
        found = examine(settings.load(), migration)
    grids.show_diagnostics(console, found, migration.address)
    raise typer.Exit(1 if any(diagnostic.state == "error" for diagnostic in found) else 0)


def plan(
    which: terminal.Which = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a move would do, without changing the target's tables."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs
    from pipeline.orchestration.common.metadata import FITS, PLAN, ROOM

    with terminal.selected_migration(which) as migration:
        found = job_runs.prepare_databases(migration)
        validate(found.source)
    if not as_json:
        terminal.print_databases(found, migration)
    result = job_runs.result_of(migration.named("plan"))
    if not result.success:
        raise typer.Exit(job_runs.failed(result))
    (materialized,) = result.asset_materializations_for_node(migration.named("make_plan"))
    data: Any = materialized.metadata[PLAN].value
    if as_json:
        terminal.as_utf8()
        for line in json.dumps(data, ensure_ascii=False, indent=2).split("\n"):
            print(printable(line))
    else:
        grids.show_plan(console, TypeAdapter(list[TablePlan]).validate_python(data))
        style = None if materialized.metadata[FITS].value else "yellow"
        room = f"disk space  {materialized.metadata[ROOM].value}"
        console.print(room, style=style, markup=False, soft_wrap=True)


def show_schema(which: terminal.Which = None) -> None:
    """Print the target's schema as one SQL script, for supabase/migrations."""
    loaded = settings.load()
    with terminal.selected_migration(which) as migration:
        source = environment.source_file(loaded, migration)
        script = ddl.of_source(source, migration, loaded.policies(migration))
    terminal.as_utf8()
    print(script, end="")


def migrate(
    which: terminal.Which = None,
    only_content: Annotated[
        str | None,
        typer.Option(
            help="Only the contents with these ids, separated by commas, and the rows that"
            " belong to them."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Only the first contents, at most this many, and the rows that belong to them."
        ),
    ] = None,
) -> None:
    """Move the tables, prove them, and print moved and quarantined rows and all checks."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs
    from pipeline.orchestration.common.run_options import run_config

    ids = terminal.ids(only_content, option="--only-content")
    scope = Subset.of(ids, limit)
    if scope is not None:
        with terminal.selected_migration(which) as migration:
            root_table(migration.tables)
    migration = _prepared(which)
    config = run_config(only_content=ids, limit=limit)
    raise typer.Exit(job_runs.run(migration.named("migrate"), config=config if scope else None))


def sync(
    which: terminal.Which = None,
    full: Annotated[
        bool, typer.Option("--full", help="Compare every value, not only changes.")
    ] = False,
) -> None:
    """Move what changed in the source, and prove it."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs
    from pipeline.orchestration.common.run_options import run_config

    migration = _prepared(which)
    raise typer.Exit(job_runs.run(migration.named("sync"), config=run_config() if full else None))


def verify(
    which: terminal.Which = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Let the check witness read every row, not a sample.")
    ] = False,
) -> None:
    """Compare committed data with source, ledger and declaration, value by value."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs
    from pipeline.orchestration.common.run_options import run_config

    migration = _prepared(which)
    raise typer.Exit(job_runs.run(migration.named("verify"), config=run_config(deep=deep)))


def _prepared(which: str | None) -> Migration:
    """Prepare the databases of a migration and print their addresses.

    Raises:
        PipelineError: a setting or a database is not usable.
    """
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs

    with terminal.selected_migration(which) as migration:
        found = job_runs.prepare_databases(migration)
        validate(found.source)
    terminal.print_databases(found, migration)
    return migration


def redrive(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[MIGRATION|TABLE]",
            help="A migration, or a table with the tables that refer to it.",
        ),
    ] = None,
) -> None:
    """Try quarantined rows again after a rule, a policy or a value was changed."""
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import job_runs

    table = None if which is None or settings.load().registry.get(which) else which
    migration = terminal.holding(table) if table else terminal.meant(which)
    with terminal.errors_name_migration(migration):
        found = job_runs.prepare_databases(migration)
        validate(found.source)
    names = [table] if table else [each.name for each in migration.tables]
    with terminal.opened(found) as target:
        waiting = [name for name in names if _in_quarantine(target, name)]
    if not waiting:
        console.print("quarantine is empty")
        return
    terminal.print_databases(found, migration)
    code = job_runs.run(migration.named("redrive"), tables=_with_children(migration, waiting))
    with terminal.opened(found) as target:
        remaining = sum(_in_quarantine(target, name) for name in names)
    of = f" of {table}" if table else ""
    console.print(f"{remaining:,} rows{of} are still in quarantine")
    raise typer.Exit(code)


def selftest() -> None:
    """Plant faults one at a time in a scratch copy, and show which check finds each."""
    from pipeline.selftest.attack import attack

    outcomes = []
    with console.status("moving a sample into a scratch database") as status:
        loaded = settings.load()
        private.home(loaded.pipeline_home)
        for outcome in attack(ensure_server(loaded.server_data)):
            status.update(outcome.name)
            outcomes.append(outcome)
    grids.show_outcomes(console, outcomes)
    wrong = [outcome.name for outcome in outcomes if not outcome.as_expected]
    if wrong:
        errors.print(f"unexpected results: {', '.join(wrong)}", style="red")
    raise typer.Exit(1 if wrong else 0)


def _in_quarantine(target: Target, table: str) -> int:
    exists = target.value("SELECT to_regclass('migration.quarantine') IS NOT NULL")
    return len(quarantine.row_ids(target, table)) if exists else 0


def _with_children(migration: Migration, names: list[str]) -> list[str]:
    """These tables and all that refer to them, because held rows wait for their parents."""
    found = set(names)
    for table in migration.tables:
        if {key.column.table.name for key in table.foreign_keys} & found:
            found.add(table.name)
    return sorted(found)
