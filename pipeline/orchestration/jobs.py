"""Jobs of a migration: what can be launched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from pipeline.migrations.declaration import Migration
from pipeline.orchestration.assets.anki import CHECK_NOTES, CheckConfig
from pipeline.orchestration.assets.tables import MoveConfig, run_config

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as Job,
    )


FEED_CRON = "17 * * * *"
"""When the schedule of ``feed`` starts it, once that is switched on."""


def migrate(
    migration: Migration,
    moves: Sequence[dg.AssetsDefinition],
    standing: Sequence[dg.AssetChecksDefinition],
) -> "Job":
    """Move all tables."""
    return _job(
        migration.named("migrate"),
        _moves_alone(moves, standing),
        "Move the tables from SQLite to PostgreSQL, parents first. Each table is one transaction"
        " that commits only when its proof holds. Running it again writes only what differs.",
    )


def sync(
    migration: Migration,
    moves: Sequence[dg.AssetsDefinition],
    standing: Sequence[dg.AssetChecksDefinition],
    after: Sequence[dg.AssetsDefinition],
) -> "Job":
    """Let the target follow the source, and then what is kept beside the tables."""
    return _job(
        migration.named("sync"),
        _moves_alone(moves, standing) | dg.AssetSelection.assets(*after),
        "Let the target follow the source: move what changed since the source was read last, and"
        " prove it. Where that cannot be known, every value is looked at.",
        config=run_config(_names(moves), MoveConfig(only_changes=True)),
    )


def redrive(
    migration: Migration,
    moves: Sequence[dg.AssetsDefinition],
    standing: Sequence[dg.AssetChecksDefinition],
) -> "Job":
    """Try rejected rows again."""
    return _job(
        migration.named("redrive"),
        _moves_alone(moves, standing),
        "Try rejected rows again, after a rule, a policy or a value was changed, parents first;"
        " rows that now pass leave quarantine in the transaction in which they arrive.",
        config=run_config(_names(moves), MoveConfig(only_changes=True, retry_rejected=True)),
    )


def verify(migration: Migration, standing: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Check what is committed."""
    return _job(
        migration.named("verify"),
        dg.AssetSelection.checks(*standing),
        "Hold what is committed against source, ledger and declaration. Both databases are read,"
        " nothing is written.",
    )


def plan(
    migration: Migration, asset: dg.AssetsDefinition, doctor: dg.AssetChecksDefinition
) -> "Job":
    """Tell what a move would do."""
    return _job(
        migration.named("plan"),
        dg.AssetSelection.assets(asset) - dg.AssetSelection.checks(doctor),
        "Tell what a move would do. Both databases are read, nothing is written.",
    )


def cutover(migration: Migration, asset: dg.AssetsDefinition) -> "Job":
    """Go from one state of the migration to another."""
    return _job(
        migration.named("cutover"),
        dg.AssetSelection.assets(asset),
        "Let the application change over to the target, or back. Its configuration says which step;"
        " the gate has to be open for those that lead there, and close and rollback have to be"
        " confirmed.",
    )


def backup(migration: Migration, assets: dg.AssetsDefinition) -> "Job":
    """Keep both databases as they are."""
    return _job(
        migration.named("backup"),
        dg.AssetSelection.assets(assets),
        "Copy the source and dump the target's tables, then restore both elsewhere and compare."
        " Older backups than the newest KEEP_BACKUPS are removed.",
    )


def anki_sync(following: dg.AssetsDefinition, checks: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Let Anki follow the contents."""
    return _job(
        "anki_sync",
        dg.AssetSelection.assets(following) | dg.AssetSelection.checks(*checks),
        "Let the notes in Anki and the cards in SQLite follow the contents in PostgreSQL, and check"
        " all three against each other. Notes are never deleted, a learner's edits stay.",
    )


def anki_check(checks: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Check Anki, cards and vectors against the contents."""
    return _job(
        "anki_check",
        dg.AssetSelection.checks(*checks),
        "Check every value across PostgreSQL, SQLite and Anki. Nothing is written.",
        config={"ops": {CHECK_NOTES: {"config": CheckConfig(recordings=0).model_dump()}}},
    )


def realtime(asset: dg.AssetsDefinition) -> "Job":
    """Switch realtime on."""
    return _job(
        "realtime",
        dg.AssetSelection.assets(asset),
        "Make the feed of changes, the publication and the policies of channels as declared, then"
        " make an event of each type once and see it arrive.",
    )


def feed(asset: dg.AssetsDefinition) -> "Job":
    """Keep the feed small."""
    return _job(
        "feed",
        dg.AssetSelection.assets(asset),
        "Forget changes of the feed that are older than FEED_HOURS.",
    )


def doctor(migration: Migration, check: dg.AssetChecksDefinition) -> "Job":
    """Examine both databases."""
    return _job(
        migration.named("doctor"),
        dg.AssetSelection.checks(check),
        "Tell whether both databases are fit for a move. Nothing is changed.",
    )


def _moves_alone(
    moves: Sequence[dg.AssetsDefinition], standing: Sequence[dg.AssetChecksDefinition]
) -> dg.AssetSelection:
    """Assets bring all their checks along; those that look at what is committed stay out."""
    return dg.AssetSelection.assets(*moves) - dg.AssetSelection.checks(*standing)


def _names(moves: Sequence[dg.AssetsDefinition]) -> list[str]:
    return [move.key.to_user_string() for move in moves]


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
