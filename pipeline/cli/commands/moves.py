"""Commands that examine both databases, move tables and verify them."""

from collections import Counter
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import environment, settings
from pipeline.core import private, progress
from pipeline.core.quoting import share
from pipeline.doctor.examination import examine
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import quarantine
from pipeline.move.run.plan import TablePlan
from pipeline.move.run.scope import Subset, root_table
from pipeline.postgres.embedded.server import ensure_server
from pipeline.postgres.target import Target
from pipeline.reporting import ddl, grids


def doctor(which: terminal.Which = None) -> None:
    """Check both databases: integrity, connectivity, TLS, privileges, disk space."""
    # This is not a job: the database of Dagster's records may not answer.
    with (
        terminal.selected_migration(which) as migration,
        progress.waiting("examining source and target"),
    ):
        found = examine(settings.load(), migration)
    grids.show_diagnostics(console, found, migration.address)
    counts = Counter(diagnostic.state for diagnostic in found)
    wrong = [
        f"{counts[state]} {state}{'s' * (counts[state] > 1)}"
        for state in ("warning", "error")
        if counts[state]
    ]
    outcome = ", ".join([f"{counts['ok']} ok", *wrong])
    say(f"{len(found)} checks: {outcome}", style="red" if counts["error"] else "")
    raise typer.Exit(1 if any(diagnostic.state == "error" for diagnostic in found) else 0)


def plan(
    which: terminal.Which = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print all columns and the forms of dates, too.")
    ] = False,
) -> None:
    """Show what a move would do, without changing the target's tables."""
    with terminal.selected_migration(which) as migration:
        if not as_json:
            terminal.print_source(migration)
        # Dagster is loaded only where it is needed.
        with terminal.loading_dagster():
            from pipeline.cli.commands import job_runs
            from pipeline.orchestration.common import metadata
        job_runs.prepare_databases(migration, quiet=as_json)
    result = job_runs.result_of(migration.named("plan"))
    if not result.success:
        raise typer.Exit(job_runs.failed(result))
    (materialized,) = result.asset_materializations_for_node(migration.named("make_plan"))
    shown = {name: each.value for name, each in materialized.metadata.items()}
    data: Any = shown[metadata.PLAN]
    if as_json:
        terminal.print_json(data)
    else:
        plans = TypeAdapter(list[TablePlan]).validate_python(data)
        grids.show_plan(console, plans, verbose=verbose)
        if metadata.FORMS in shown:
            say(f"to declare these forms, set {shown[metadata.FORMS]}", style="yellow")
        if metadata.NOT_DECLARED in shown:
            say(
                f"not declared, stays in the source: {shown[metadata.NOT_DECLARED]}", style="yellow"
            )
        style = "" if shown[metadata.FITS] else "yellow"
        say(f"disk space  {shown[metadata.ROOM]}", style=style)
        rows = sum(plan.rows for plan in plans)
        rejected = sum(plan.rejected_rows for plan in plans)
        part = f", {rejected:,} ({share(rejected, rows, digits=1)}) would be rejected"
        say(f"{rows:,} rows{part if rejected else ' would move'}")


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
    verbose: terminal.Verbose = False,
) -> None:
    """Move the tables and prove them; print what moved and what needs attention."""
    ids = terminal.ids(only_content, option="--only-content")
    scope = Subset.of(ids, limit)
    if scope is not None:
        with terminal.selected_migration(which) as migration:
            root_table(migration.tables)
    options = {"only_content": ids, "limit": limit}
    raise typer.Exit(_run("migrate", which, options if scope else None, verbose=verbose))


def sync(
    which: terminal.Which = None,
    full: Annotated[
        bool, typer.Option("--full", help="Compare every value, not only changes.")
    ] = False,
    verbose: terminal.Verbose = False,
) -> None:
    """Move what changed in the source, and prove it."""
    raise typer.Exit(_run("sync", which, {} if full else None, verbose=verbose))


def verify(
    which: terminal.Which = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Let the check witness read every row, not a sample.")
    ] = False,
    verbose: terminal.Verbose = False,
) -> None:
    """Compare committed data with source, ledger and declaration, value by value."""
    raise typer.Exit(_run("verify", which, {"deep": deep}, verbose=verbose))


def _run(job: str, which: str | None, options: dict[str, Any] | None, *, verbose: bool) -> int:
    """Run a job of a migration, with these options of its runs; returns the exit code."""
    with terminal.selected_migration(which) as migration:
        terminal.print_source(migration)
        # Dagster is loaded only where it is needed.
        with terminal.loading_dagster():
            from pipeline.cli.commands import job_runs
            from pipeline.orchestration.common.run_options import run_config
        job_runs.prepare_databases(migration)
    config = None if options is None else run_config(**options)
    return job_runs.run(migration.named(job), migration, config=config, verbose=verbose)


def redrive(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="MIGRATION|TABLE",
            help="A migration, or a table with the tables that refer to it.",
        ),
    ] = None,
    verbose: terminal.Verbose = False,
) -> None:
    """Try quarantined rows again after a rule, a policy or a value was changed."""
    table = None if which is None or settings.load().registry.get(which) else which
    migration = terminal.holding(table) if table else terminal.meant(which)
    names = [table] if table else [each.name for each in migration.tables]
    with terminal.errors_name_migration(migration):
        terminal.print_source(migration)
        # Dagster is loaded only where it is needed.
        with terminal.loading_dagster():
            from pipeline.cli.commands import job_runs
        found = job_runs.prepare_databases(migration)
    with terminal.opened(found) as target:
        waiting = [name for name in names if _in_quarantine(target, name)]
    if not waiting:
        say("quarantine is empty")
        return
    tables = _with_children(migration, waiting)
    code = job_runs.run(migration.named("redrive"), migration, tables=tables, verbose=verbose)
    with terminal.opened(found) as target:
        remaining = sum(_in_quarantine(target, name) for name in names)
    of, are = f" of {table}" if table else "", "row{} is" if remaining == 1 else "rows{} are"
    say(f"{remaining:,} {are.format(of)} still in quarantine")
    raise typer.Exit(code)


def selftest() -> None:
    """Plant faults one at a time in a scratch copy, and show which check finds each."""
    from pipeline.selftest.attack import attack

    with progress.waiting("planting faults in a scratch database"):
        loaded = settings.load()
        private.home(loaded.pipeline_home)
        outcomes = list(attack(ensure_server(loaded.server_data)))
    grids.show_outcomes(console, outcomes)
    wrong = [outcome.name for outcome in outcomes if not outcome.as_expected]
    if wrong:
        terminal.complain(f"unexpected results: {', '.join(wrong)}")
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
