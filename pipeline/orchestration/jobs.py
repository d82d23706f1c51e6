"""Jobs of a migration: what can be launched."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from pipeline.core import proof
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.assets.anki import CHECK_NOTES, CheckConfig
from pipeline.orchestration.common import checks
from pipeline.orchestration.common.run_options import run_config

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as Job,
    )


FEED_CRON = "17 * * * *"
"""When the schedule of ``feed`` starts it, once that is switched on."""


def migrate(migration: Migration) -> "Job":
    """Move all tables."""
    return _job(
        migration.named("migrate"),
        _moves(migration),
        "Move the tables from SQLite to PostgreSQL, parents first. Each table is one transaction"
        " that commits only if its proof holds. A second run writes only rows that differ.",
    )


def sync(migration: Migration, after: Sequence[dg.AssetsDefinition]) -> "Job":
    """Move what changed, then update the assets that follow the tables."""
    return _job(
        migration.named("sync"),
        _moves(migration) | dg.AssetSelection.assets(*after),
        "Move what changed in the source since the last run, and prove it. Where the changes cannot"
        " be determined, compare every value.",
        config=run_config(only_changes=True),
    )


def redrive(migration: Migration) -> "Job":
    """Try quarantined rows again."""
    return _job(
        migration.named("redrive"),
        _moves(migration),
        "Try quarantined rows again after a rule, a policy or a value was changed, parents first."
        " Rows that now pass leave quarantine in the transaction in which they arrive.",
        config=run_config(only_changes=True, retry_rejected=True),
    )


def verify(migration: Migration) -> "Job":
    """Check committed rows."""
    return _job(
        migration.named("verify"),
        _checks(migration, proof.OF_A_VERIFICATION),
        "Compare committed rows with source, ledger and declaration. Both databases are only read.",
    )


def plan(
    migration: Migration, asset: dg.AssetsDefinition, doctor: dg.AssetChecksDefinition
) -> "Job":
    """Show what a move would do."""
    return _job(
        migration.named("plan"),
        dg.AssetSelection.assets(asset) - dg.AssetSelection.checks(doctor),
        "Show what a move would do. Both databases are only read.",
    )


def census(migration: Migration, asset: dg.AssetsDefinition) -> "Job":
    """Show what the source holds."""
    return _job(
        migration.named("census"),
        dg.AssetSelection.assets(asset),
        "Show what the source holds, beside what is declared. Only the source is read.",
    )


def cutover(migration: Migration, asset: dg.AssetsDefinition) -> "Job":
    """Go from one state of the migration to another."""
    return _job(
        migration.named("cutover"),
        dg.AssetSelection.assets(asset),
        "Cut the application over to the target, or roll back. The run's configuration selects the"
        " step. freeze and live require an open gate; close and rollback require a confirmation.",
    )


def backup(migration: Migration, assets: dg.AssetsDefinition) -> "Job":
    """Keep both databases as they are."""
    return _job(
        migration.named("backup"),
        dg.AssetSelection.assets(assets),
        "Copy the source and dump the target's tables, then restore both elsewhere and compare."
        " Only the newest KEEP_BACKUPS backups are kept.",
    )


def anki_sync(following: dg.AssetsDefinition, across: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Let Anki follow the contents."""
    return _job(
        "anki_sync",
        dg.AssetSelection.assets(following) | dg.AssetSelection.checks(*across),
        "Update the notes in Anki and the cards in SQLite from the contents in PostgreSQL, then"
        " compare all three. Notes are never deleted; a learner's edits are kept.",
    )


def anki_check(across: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Check Anki, cards and vectors against the contents."""
    return _job(
        "anki_check",
        dg.AssetSelection.checks(*across),
        "Check every value across PostgreSQL, SQLite and Anki. Nothing is written.",
        config={"ops": {CHECK_NOTES: {"config": CheckConfig(recordings=0).model_dump()}}},
    )


def realtime(asset: dg.AssetsDefinition) -> "Job":
    """Switch realtime on."""
    return _job(
        "realtime",
        dg.AssetSelection.assets(asset),
        "Create the feed of changes, the publication and the policies of channels as declared,"
        " then send a test event of each type and check that it arrives.",
    )


def feed(asset: dg.AssetsDefinition) -> "Job":
    """Keep the feed small."""
    return _job(
        "feed",
        dg.AssetSelection.assets(asset),
        "Delete changes of the feed that are older than FEED_HOURS.",
    )


def doctor(migration: Migration, check: dg.AssetChecksDefinition) -> "Job":
    """Examine both databases."""
    return _job(
        migration.named("doctor"),
        dg.AssetSelection.checks(check),
        "Check whether both databases are ready for a move. Nothing is changed.",
    )


def _moves(migration: Migration) -> dg.AssetSelection:
    """The tables' assets, with the checks that are part of a move."""
    tables = dg.AssetSelection.assets(*(table.name for table in migration.tables))
    return tables.without_checks() | _checks(migration, proof.MOVE_CHECKS)


def _checks(migration: Migration, names: Iterable[str]) -> dg.AssetSelection:
    names = tuple(names)
    tables = [table.name for table in migration.tables]
    return dg.AssetSelection.checks(*(k for table in tables for k in checks.keys(table, names)))


def _job(
    name: str,
    selection: dg.AssetSelection,
    description: str,
    *,
    config: dict[str, object] | None = None,
) -> "Job":
    return dg.define_asset_job(
        name,
        config=config,
        selection=selection,
        description=description,
        # One process: a step of its own costs seconds, and all steps share one copy of the source.
        executor_def=dg.in_process_executor,
    )
