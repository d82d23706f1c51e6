"""The gate before anything follows the target: its tables exist, and no blocking check failed."""

from collections.abc import Sequence

from pipeline.core.errors import TargetError
from pipeline.core.messages import MIGRATE, VERIFY, message
from pipeline.core.proof import BLOCKING
from pipeline.postgres import schema
from pipeline.postgres.target import Target

_NEWEST = """
SELECT asset, name FROM (
  SELECT DISTINCT ON (asset, name) asset, name, execution_status FROM (
    SELECT evaluation_event_storage_id AS made_at, id, asset_key::json ->> 0 AS asset,
      execution_status,
      regexp_replace(check_name, '^standing_', '') AS name
    FROM dagster.asset_check_executions WHERE execution_status IN ('SUCCEEDED', 'FAILED')
  ) AS made WHERE asset = ANY($1) AND name = ANY($2)
    ORDER BY asset, name, made_at DESC NULLS LAST, id DESC
) AS newest WHERE execution_status = 'FAILED' ORDER BY asset, name
"""
"""Only checks with a result count; a run may end before it makes all that it planned. Older
versions recorded the checks of ``verify`` under names with a prefix."""


def require_proven(target: Target, tables: Sequence[str]) -> None:
    """Refuse a target with a missing table or a failed blocking check.

    Moves and verifications make the same checks; the newest result counts.

    Raises:
        TargetError: names the failed checks or the missing tables.
    """
    missing = [table for table in tables if not schema.exists(target, table)]
    if missing:
        raise TargetError(
            f"The target has no table {', '.join(missing)}",
            remedy=message("Run ", MIGRATE, " first"),
        )
    if not target.value("SELECT to_regclass('dagster.asset_check_executions') IS NOT NULL"):
        return
    found = target.rows(_NEWEST, (list(tables), list(BLOCKING)))
    if found:
        failed = ", ".join(f"{name} of {table}" for table, name in found)
        raise TargetError(
            f"The target is not proven: {failed} failed in its last run",
            remedy=message(
                "Inspect the findings and repair the target, then run ", MIGRATE, " or ", VERIFY
            ),
        )
