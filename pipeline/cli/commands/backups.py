"""Commands that make, list and restore backups; they ask before they overwrite anything."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.backup import restore, source, store
from pipeline.backup.errors import RestoreRefused
from pipeline.backup.manifest import SOURCE_FILE, Manifest
from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console, say
from pipeline.config import environment, settings
from pipeline.core import private
from pipeline.core.errors import SettingsError
from pipeline.core.messages import BACKUP, DEFAULT_ADDRESS, ROLLBACK, UNFREEZE, message
from pipeline.core.quoting import size
from pipeline.cutover import capture, freezing, states
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.postgres.target import Target
from pipeline.reporting import grids
from pipeline.reporting.layout import Grid
from pipeline.sqlite.origin import File

_From = Annotated[
    str | None,
    typer.Option(
        "--from", help="Name of the backup; the default is the newest whose restore was verified."
    ),
]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
_Other = Annotated[bool, typer.Option("--other", help="Accept a backup of another database.")]
_Frozen = Annotated[
    bool, typer.Option("--even-frozen", help="Overwrite a source that a cut-over has frozen.")
]
_Discard = Annotated[
    bool,
    typer.Option("--discard-writes", help="Discard what the application wrote to the target."),
]


restored = typer.Typer(no_args_is_help=True, help="Restore a database from a backup.")


def _back_up(which: str | None, *, verbose: bool) -> None:
    with terminal.selected_migration(which) as migration:
        terminal.print_source(migration)
        # Dagster is loaded only where it is needed.
        with terminal.loading_dagster():
            from pipeline.cli.commands import job_runs
            from pipeline.orchestration.common import printing, report
        job_runs.prepare_databases(migration)
    result = job_runs.result_of(migration.named("backup"))
    tables = report.tables_of(result.all_events)
    printing.show(console, tables, run_id=result.run_id, verbose=verbose, address=migration.address)
    if not result.success:
        raise typer.Exit(job_runs.failed(result))
    list_backups()


def backup(context: typer.Context, verbose: terminal.Verbose = False) -> None:
    """Back up both databases and verify the backup by restoring it."""
    if context.invoked_subcommand is None:
        _back_up(None, verbose=verbose)


def back_up_named(context: typer.Context, verbose: terminal.Verbose = False) -> None:
    """Back up the databases of the migration that the command is named after."""
    _back_up(context.info_name, verbose=verbose)


def list_backups() -> None:
    """List backups, newest first."""
    found = store.finished(settings.load().pipeline_home)
    if not found:
        say(f"no backup exists yet; run {BACKUP.written(DEFAULT_ADDRESS)}")
        return
    grids.show(console, table_of(found))


def group(names: Iterable[str]) -> typer.Typer:
    """The command ``backup``, with a subcommand for each migration."""
    made = typer.Typer(help="Back up both databases and verify the backup by restoring it.")
    made.callback(invoke_without_command=True)(backup)
    for name in names:
        made.command(name, help=f"Back up the databases of the migration {name}.")(back_up_named)
    made.command("list")(list_backups)
    return made


@restored.command("source")
def restore_source(
    which: terminal.Which = None,
    name: _From = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Restore into this file instead of the source; it is created if missing."
        ),
    ] = None,
    yes: _Yes = False,
    other: _Other = False,
    even_frozen: _Frozen = False,
) -> None:
    """Restore the SQLite file; applications may have it open."""
    with terminal.selected_migration(which) as migration:
        _restore_source(migration, name=name, to=to, yes=yes, other=other, even_frozen=even_frozen)


def _restore_source(
    migration: Migration,
    *,
    name: str | None,
    to: Path | None,
    yes: bool,
    other: bool,
    even_frozen: bool,
) -> None:
    loaded = settings.load()
    home, onto = loaded.pipeline_home, to or loaded.source_path(migration)
    origin = loaded.origin(migration)
    if to is None and not isinstance(origin, File):
        raise SettingsError(
            f"A backup of the source is an SQLite file and cannot be restored over {origin.shown}",
            remedy="Restore it to a file with --to PATH, and create a database from that file",
        )
    manifest = store.named(home, migration.name, name)
    if to is None:
        _require_same("source", manifest.source, str(onto), other=other)
        _require_unfrozen(onto, migration, even_frozen=even_frozen)
    copy = store.place(home, manifest.name) / SOURCE_FILE
    store.require_intact(copy, manifest.source_sha256)
    terminal.confirm(f"Restore {onto} to its state at {_moment(manifest)}?", yes=yes)
    private.home(home)
    done = source.restore(
        copy,
        onto,
        kept=store.replaced(home),
        expected=manifest.source_tables,
        rights=manifest.source_rights,
    )
    if done.kept:
        say(f"the previous file is kept as {done.kept}")
    if done.damaged_file:
        say(f"the previous file could not be opened and was moved to {done.damaged_file}")
    rows = sum(table.rows for table in manifest.source_tables)
    say(
        f"{onto} was restored to its state at {_moment(manifest)}:"
        f" {rows:,} rows, every value compared"
    )


@restored.command("target")
def restore_target(
    which: terminal.Which = None,
    name: _From = None,
    yes: _Yes = False,
    other: _Other = False,
    discard: _Discard = False,
) -> None:
    """Restore the target's tables and their part of the ledger in one transaction."""
    with terminal.selected_migration(which) as migration:
        _restore_target(migration, name=name, yes=yes, other=other, discard=discard)


def _restore_target(
    migration: Migration, *, name: str | None, yes: bool, other: bool, discard: bool
) -> None:
    loaded = settings.load()
    manifest = store.named(loaded.pipeline_home, migration.name, name)
    if any(each.schema == ledger.SCHEMA and not each.only for each in manifest.target_tables):
        raise RestoreRefused(
            f"The backup {manifest.name} contains the ledger of all migrations, because it was"
            " created when only one existed; restoring it would overwrite the others",
            remedy="Restore the source from it and move again, or choose another backup",
        )
    found = environment.databases(loaded, migration)
    environment.require_session(found)
    _require_same("target", manifest.target, found.target_shown, other=other)
    terminal.confirm(f"Restore {found.target_shown} to its state at {_moment(manifest)}?", yes=yes)
    with (
        terminal.opened(found) as target,
        target.lock(seconds=loaded.lock_seconds),
    ):
        _require_following(target, migration, discard=discard)
        unpublished = restore.restore(
            found.target_url,
            shown=found.target_shown,
            tables=manifest.target_tables,
            folder=store.place(loaded.pipeline_home, manifest.name),
        )
        with target.transaction():
            now = states.read(target, migration.name)
            if now.state == "live":
                # New writes are captured behind those that the backup holds.
                capture.install(target, migration.tables)
    rows = sum(table.rows for table in manifest.target_tables)
    say(
        f"{found.target_shown} was restored to its state at {_moment(manifest)}:"
        f" {rows:,} rows, every value compared before the commit"
    )
    for each in unpublished:
        say(f"{each.table} is no longer in publication {each.publication}: {each.why}")
    frozen = freezing.is_frozen_file(found.source, migration.tables)
    run = UNFREEZE.written(migration.address)
    unfreeze = f"; the source is frozen: run {run}" if frozen else ""
    say(f"the migration is {now}{unfreeze if now.state == 'shadow' else ''}")


def table_of(manifests: list[Manifest]) -> Grid:
    """Backups as a table."""
    columns = ("backup", "of", "size", "source rows", "target rows", "restorable")
    rows = [
        (
            manifest.name,
            manifest.migration,
            size(manifest.bytes),
            f"{sum(table.rows for table in manifest.source_tables):,}",
            f"{sum(table.rows for table in manifest.target_tables):,}",
            "yes" if manifest.restore_verified else "no",
        )
        for manifest in manifests
    ]
    return Grid("Backups", columns, rows, frozenset((2, 3, 4)), (5, grids.STATES))


def _require_unfrozen(source: Path, migration: Migration, *, even_frozen: bool) -> None:
    """Refuse to replace a frozen source with a writable one.

    Raises:
        RestoreRefused: the source is frozen, and ``even_frozen`` is not set.
    """
    if not even_frozen and freezing.is_frozen_file(source, migration.tables):
        raise RestoreRefused(
            f"{source} is frozen by a cut-over; a restored file would be writable again",
            remedy=message(
                *("Run ", UNFREEZE, " or ", ROLLBACK, " first, restore --to another file,"),
                " or add --even-frozen to overwrite it anyway",
            ),
        )


def _require_following(target: Target, migration: Migration, *, discard: bool) -> None:
    """Refuse to restore over a target that the application writes.

    Raises:
        RestoreRefused: its writes would be lost, and ``discard`` is not set.
    """
    now = states.read(target, migration.name)
    if now.state != "shadow" and not discard:
        raise RestoreRefused(
            f"The migration is {now}; what the application has written to the target since then"
            " would be lost",
            remedy=message(
                *("To keep them, run ", ROLLBACK, " while the migration is live;"),
                " to discard them, add --discard-writes",
            ),
        )


def _require_same(what: str, then: str, now: str, *, other: bool) -> None:
    """Refuse a backup of another database.

    Raises:
        RestoreRefused: it is of another one, and ``other`` is not set.
    """
    if then != now and not other:
        raise RestoreRefused(
            f"The backup is of another {what}: {then} instead of {now}",
            remedy="Choose another backup with --from, or add --other to use this one",
        )


def _moment(manifest: Manifest) -> str:
    return f"{manifest.at:%Y-%m-%d %H:%M:%S} UTC"
