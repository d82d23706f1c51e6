"""Jobs and schedules of a migration: what can be launched, and when it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from pipeline import settings
from pipeline.move.errors import SettingsError

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as Job,
    )


def migrate(
    moves: Sequence[dg.AssetsDefinition], standing: Sequence[dg.AssetChecksDefinition]
) -> "Job":
    """Move all tables."""
    return _job(
        "migrate",
        _moves_alone(moves, standing),
        "Move the tables from SQLite to PostgreSQL, parents first. Each table is one transaction"
        " that commits only when its proof holds. Running it again writes only what differs.",
    )


def redrive(
    moves: Sequence[dg.AssetsDefinition], standing: Sequence[dg.AssetChecksDefinition]
) -> "Job":
    """Try rejected rows again."""
    return _job(
        "redrive",
        _moves_alone(moves, standing),
        "Try rejected rows again, after a rule, a policy or a value was changed: the selected"
        " tables are moved once more, parents first, and rows that now pass leave quarantine in"
        " the same transaction.",
    )


def verify(standing: Sequence[dg.AssetChecksDefinition]) -> "Job":
    """Check what is committed."""
    return _job(
        "verify",
        dg.AssetSelection.checks(*standing),
        "Hold what is committed against source, ledger and declaration. Both databases are read,"
        " nothing is written.",
    )


def plan(asset: dg.AssetsDefinition) -> "Job":
    """Tell what a move would do."""
    return _job(
        "plan",
        dg.AssetSelection.assets(asset),
        "Tell what a move would do. Both databases are read, nothing is written.",
    )


def schedule(job: "Job", cron: str) -> dg.ScheduleDefinition:
    """A schedule of a job, off until somebody switches it on.

    Raises:
        SettingsError: the expression or the time zone cannot be used.
    """
    zone = settings.load().schedule_zone
    try:
        return dg.ScheduleDefinition(
            job=job,
            cron_schedule=cron,
            execution_timezone=zone,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
    except (dg.DagsterInvalidDefinitionError, ValueError) as error:
        raise SettingsError(
            f"The schedule of {job.name} cannot be {cron!r} in time zone {zone!r}",
            remedy=f"Correct {job.name.upper()}_CRON (such as 0 3 * * *) or SCHEDULE_ZONE",
        ) from error


def _moves_alone(
    moves: Sequence[dg.AssetsDefinition], standing: Sequence[dg.AssetChecksDefinition]
) -> dg.AssetSelection:
    """Assets bring all their checks along; those that look at what is committed stay out."""
    return dg.AssetSelection.assets(*moves) - dg.AssetSelection.checks(*standing)


def _job(name: str, selection: dg.AssetSelection, description: str) -> "Job":
    return dg.define_asset_job(
        name,
        selection=selection,
        description=description,
        # One process: a step of its own costs seconds, and all steps share one copy of the source.
        executor_def=dg.in_process_executor,
    )
