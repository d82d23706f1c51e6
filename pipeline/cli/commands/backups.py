"""The commands that list backups and restore them; nothing is overwritten without a yes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.backup import restore, source, store
from pipeline.backup.errors import RestoreRefused
from pipeline.backup.manifest import SOURCE_FILE, Manifest
from pipeline.cli.commands import terminal
from pipeline.cli.commands.terminal import console
from pipeline.config import environment, settings
from pipeline.core import private
from pipeline.core.errors import SettingsError
from pipeline.core.messages import ANYBODY, BACKUP, ROLLBACK, UNFREEZE, message
from pipeline.cutover import capture, freezing, states
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.postgres.target import Target
from pipeline.reporting import grids
from pipeline.sqlite.origin import File

_From = Annotated[
    str | None, typer.Option("--from", help="The backup's name; otherwise the newest rehearsed.")
]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_Other = Annotated[bool, typer.Option("--other", help="Also from a backup of another database.")]
_Frozen = Annotated[
    bool, typer.Option("--even-frozen", help="Also over a source that a cut-over has frozen.")
]
_Discard = Annotated[
    bool,
    typer.Option("--discard-writes", help="Also over what the application wrote to the target."),
]


restored = typer.Typer(no_args_is_help=True, help="Bring back what a backup holds.")


def _back_up(which: str | None) -> None:
    # Dagster is loaded only where it is needed.
    from pipeline.cli.commands import running
    from pipeline.orchestration.common import report

    with terminal.serving(which) as migration:
        terminal.print_databases(running.ready(migration), migration)
    result = running.result_of(migration.named("backup"))
    report.show(console, report.tables_of(result.all_events))
    if not result.success:
        raise typer.Exit(running.failed(result))
    list_backups()


def backup(context: typer.Context) -> None:
    """Keep both databases as they are, and show that they can be restored."""
    if context.invoked_subcommand is None:
        _back_up(None)


def back_up_named(context: typer.Context) -> None:
    """Those of the migration whose name the command bears."""
    _back_up(context.info_name)


def list_backups() -> None:
    """Tell which backups there are, the newest first."""
    found = store.finished(settings.load().pipeline_home)
    if not found:
        _say(f"there is no backup yet; run {BACKUP.written(ANYBODY)}")
        return
    console.print(table_of(found))


def group(names: Iterable[str]) -> typer.Typer:
    """The command ``backup``, with one of its own for each of these migrations."""
    made = typer.Typer(help="Keep both databases as they are, restored elsewhere before it counts.")
    made.callback(invoke_without_command=True)(backup)
    for name in names:
        made.command(name, help=f"The databases of the migration {name}.")(back_up_named)
    made.command("list")(list_backups)
    return made


@restored.command("source")
def restore_source(
    which: terminal.Which = None,
    name: _From = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Another file than the source; made if missing.")
    ] = None,
    yes: _Yes = False,
    other: _Other = False,
    even_frozen: _Frozen = False,
) -> None:
    """Make the SQLite file what it was; applications may have it open."""
    with terminal.serving(which) as migration:
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
            f"A backup is an SQLite file, which cannot be put over {origin.shown}",
            remedy="Put it elsewhere with --to PATH, and make a database of that file",
        )
    manifest = store.named(home, migration.name, name)
    if to is None:
        _require_same("source", manifest.source, str(onto), other=other)
        _require_thawed(onto, migration, even_frozen=even_frozen)
    copy = store.place(home, manifest.name) / SOURCE_FILE
    store.require_whole(copy, manifest.source_sha256)
    terminal.confirm(f"Make {onto} what it was at {_at(manifest)}?", yes=yes)
    private.home(home)
    done = source.restore(
        copy,
        onto,
        kept=store.replaced(home),
        expected=manifest.source_tables,
        rights=manifest.source_rights,
    )
    if done.kept:
        _say(f"what was there is kept in {done.kept}")
    if done.aside:
        _say(f"what was there could not be opened, and is now {done.aside}")
    rows = sum(table.rows for table in manifest.source_tables)
    _say(f"{onto} is what it was at {_at(manifest)}: {rows:,} rows, every value compared")


@restored.command("target")
def restore_target(
    which: terminal.Which = None,
    name: _From = None,
    yes: _Yes = False,
    other: _Other = False,
    discard: _Discard = False,
) -> None:
    """Make the target's tables and their part of the ledger what they were, in one transaction."""
    with terminal.serving(which) as migration:
        _restore_target(migration, name=name, yes=yes, other=other, discard=discard)


def _restore_target(
    migration: Migration, *, name: str | None, yes: bool, other: bool, discard: bool
) -> None:
    loaded = settings.load()
    manifest = store.named(loaded.pipeline_home, migration.name, name)
    if any(each.schema == ledger.SCHEMA and not each.only for each in manifest.target_tables):
        raise RestoreRefused(
            f"The backup {manifest.name} was made when there was one migration, and its ledger"
            " would take the place of what all migrations have in it now",
            remedy="Restore its source, and move again; or take another backup",
        )
    found = environment.databases(loaded, migration)
    environment.require_session(found)
    _require_same("target", manifest.target, found.target_shown, other=other)
    terminal.confirm(f"Make {found.target_shown} what it was at {_at(manifest)}?", yes=yes)
    with (
        Target.connect(found.target_url, shown=found.target_shown) as target,
        target.lock(seconds=loaded.lock_seconds),
    ):
        _require_following(target, migration, discard=discard)
        lost = restore.restore(
            found.target_url,
            shown=found.target_shown,
            tables=manifest.target_tables,
            folder=store.place(loaded.pipeline_home, manifest.name),
        )
        with target.transaction():
            now = states.read(target, migration.name)
            if now.state == "live":
                # What is written from now on is captured again, behind what the backup has of it.
                capture.install(target, migration.tables)
    rows = sum(table.rows for table in manifest.target_tables)
    _say(
        f"{found.target_shown} is what it was at {_at(manifest)}:"
        f" {rows:,} rows, every value compared before it was committed"
    )
    for each in lost:
        _say(f"{each.table} is no more in publication {each.publication}: {each.why}")
    frozen = freezing.is_frozen_file(found.source, migration.tables)
    run = UNFREEZE.written(migration.address)
    unfreeze = f"; the source is frozen: run {run}" if frozen else ""
    _say(f"the migration is {now}{unfreeze if now.state == 'shadow' else ''}")


def table_of(manifests: list[Manifest]) -> Table:
    """Backups as people read them."""
    rows = [
        (
            manifest.name,
            manifest.migration,
            f"{manifest.bytes / 2**20:,.1f}",
            f"{sum(table.rows for table in manifest.source_tables):,}",
            f"{sum(table.rows for table in manifest.target_tables):,}",
            "yes" if manifest.rehearsed else "no",
        )
        for manifest in manifests
    ]
    return grids.grid_of(
        "Backups", ("backup", "of", "MiB", "source rows", "target rows", "restorable"), rows
    )


def _require_thawed(source: Path, migration: Migration, *, even_frozen: bool) -> None:
    """Refuse to put a file that can be written in the place of one that is frozen.

    Raises:
        RestoreRefused: it is frozen, and that was not asked for.
    """
    if not even_frozen and freezing.is_frozen_file(source, migration.tables):
        raise RestoreRefused(
            f"{source} is frozen by a cut-over; what a backup holds could be written again",
            remedy=message(
                *("Run ", UNFREEZE, " or ", ROLLBACK, " first, restore --to another file,"),
                " or add --even-frozen if this is meant",
            ),
        )


def _require_following(target: Target, migration: Migration, *, discard: bool) -> None:
    """Refuse to restore a target that the application writes, or is about to.

    Raises:
        RestoreRefused: its writes would be lost, and that was not asked for.
    """
    now = states.read(target, migration.name)
    if now.state != "shadow" and not discard:
        raise RestoreRefused(
            f"The migration is {now}; what the application has written to the target since would"
            " be lost",
            remedy=message(
                *(ROLLBACK, " takes it back, as long as it is live;"),
                " add --discard-writes if this is meant",
            ),
        )


def _require_same(what: str, then: str, now: str, *, other: bool) -> None:
    """Refuse a backup of another database.

    Raises:
        RestoreRefused: it is of another one, and that was not asked for.
    """
    if then != now and not other:
        raise RestoreRefused(
            f"The backup is of another {what}: {then}, and not {now}",
            remedy="Name another backup with --from, or add --other if this is meant",
        )


def _at(manifest: Manifest) -> str:
    return f"{manifest.at:%Y-%m-%d %H:%M:%S} UTC"


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
