"""What must hold before anything follows the target: it is there, and no proof stands failed."""

from collections.abc import Sequence

import dagster as dg

from pipeline import checks
from pipeline.move import schema
from pipeline.move.errors import TargetError
from pipeline.move.target import Target


def demand_proven(instance: dg.DagsterInstance, target: Target, tables: Sequence[str]) -> None:
    """Refuse a target of which a blocking check has failed when it was made last.

    A check is made by moves and, with a prefix, by verify; the newer of both counts.

    Raises:
        TargetError: names the checks that failed, or the tables that are not there.
    """
    lacking = [table for table in tables if not schema.exists(target, table)]
    if lacking:
        raise TargetError(
            f"The target does not hold {', '.join(lacking)}", remedy="Run pipeline migrate first"
        )
    failed = [
        f"{name} of {table}"
        for table in tables
        for name in checks.BLOCKING
        if _failed(instance, table, name)
    ]
    if failed:
        raise TargetError(
            f"The target is not proven: {', '.join(failed)} failed when it was checked last",
            remedy="See what it found; run pipeline migrate, or pipeline verify once it is mended",
        )


def _failed(instance: dg.DagsterInstance, table: str, name: str) -> bool:
    keys = [dg.AssetCheckKey(dg.AssetKey(table), prefix + name) for prefix in ("", checks.STANDING)]
    found = [instance.get_latest_asset_check_evaluation_record(key) for key in keys]
    made = [record for record in found if record is not None and record.event is not None]
    if not made:
        return False
    newest = max(made, key=lambda record: record.create_timestamp)
    event = newest.event.dagster_event if newest.event else None
    return event is not None and not event.asset_check_evaluation_data.passed
