"""The gate before anything follows the target: its tables exist, and their newest proof passed."""

from collections.abc import Sequence

from pipeline.core.errors import TargetError
from pipeline.core.messages import MIGRATE, VERIFY, message
from pipeline.core.proof import BLOCKING, BY_COMPARISON
from pipeline.move.ledger import check_results
from pipeline.postgres.target import Target

_MISSING = """
SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS listed (name, position)
WHERE to_regclass('public.' || quote_ident(name)) IS NULL ORDER BY position
"""


def require_proven(target: Target, tables: Sequence[str]) -> None:
    """Refuse a target with a missing table, or with a blocking check that has not passed.

    Moves and verifications make the same checks; the newest result counts. A table without results
    is not proven. A check that was introduced after the last move of a table needs no result.

    Raises:
        TargetError: names the missing tables, or the checks that failed or have no result.
    """
    missing = [name for (name,) in target.rows(_MISSING, (list(tables),))]
    if missing:
        raise TargetError(
            f"The target has no table {', '.join(missing)}",
            remedy=message("Run ", MIGRATE, " first"),
        )
    found = check_results.read(target, tables)
    wanted = [(table, name) for table in tables for name in sorted(BLOCKING)]
    failed = [f"{name} of {table}" for table, name in wanted if _failed(found, table, name)]
    if failed:
        raise TargetError(
            f"The target is not proven: {', '.join(failed)} failed in its last run",
            remedy=message(
                "Inspect the findings and repair the target, then run ", MIGRATE, " or ", VERIFY
            ),
        )
    unknown = [t for t in tables if any((t, name) not in found for name in BY_COMPARISON)]
    if unknown:
        raise TargetError(
            f"The target is not proven: the ledger has no results of the checks of"
            f" {', '.join(unknown)}",
            remedy=message("Run ", MIGRATE, " or ", VERIFY),
        )


def _failed(found: dict[tuple[str, str], check_results.Recorded], table: str, name: str) -> bool:
    return (table, name) in found and not found[table, name].passed
