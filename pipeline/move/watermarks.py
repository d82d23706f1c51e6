"""Up to where a table's source has been read; committed with the rows that it speaks of."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from pipeline.move.landing import Landing
from pipeline.move.target import Target
from pipeline.move.tracking import Position
from pipeline.move.types import type_name


@dataclass(frozen=True)
class Watermark:
    """What the last run that moved a table has seen.

    Attributes:
        newest: the largest date of change of any row that was read, None if none has one.
        rows: rows of the target then.
        rules: digest of what decides how values move.
        seen: what the source file looked like, None if that could not tell.
        position: the last entry that was read of the source's log, None where it is not tracked.
    """

    newest: datetime | None
    rows: int
    rules: str
    seen: str | None
    position: Position | None


def rules_of(landing: Landing) -> str:
    """A digest of columns, types and policies: other ones need every value to be looked at."""
    told = [(column.name, type_name(column.type)) for column in landing.columns]
    policies = landing.policies
    told += [("naive_zone", policies.naive_zone), ("lossy", policies.lossy_conversions)]
    told += [(name, repr(value)) for name, value in sorted(policies.forbidden_nulls.items())]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def read(target: Target, table: str) -> Watermark | None:
    """The watermark of a table; None if it has none."""
    if not target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL"):
        return None
    found = target.rows(
        "SELECT newest, rows, rules, seen, change, token FROM migration.watermarks"
        " WHERE table_name = $1",
        (table,),
    )
    if not found:
        return None
    newest, rows, rules, seen, change, token = found[0]
    return Watermark(newest, rows, rules, seen, None if change is None else Position(change, token))


def write(target: Target, table: str, mark: Watermark, *, run_id: str) -> None:
    """Note a watermark; one that says the same is not touched."""
    position = mark.position
    target.rows(
        "INSERT INTO migration.watermarks AS w"
        " (table_name, newest, rows, rules, seen, change, token, run_id)"
        " VALUES ($1, $2::timestamptz, $3, $4, $5, $6, $7, $8) ON CONFLICT (table_name) DO UPDATE"
        " SET newest = EXCLUDED.newest, rows = EXCLUDED.rows, rules = EXCLUDED.rules,"
        " seen = EXCLUDED.seen, change = EXCLUDED.change, token = EXCLUDED.token,"
        " run_id = EXCLUDED.run_id, at = now() WHERE (w.newest, w.rows, w.rules, w.seen, w.change,"
        " w.token) IS DISTINCT FROM (EXCLUDED.newest, EXCLUDED.rows, EXCLUDED.rules,"
        " EXCLUDED.seen, EXCLUDED.change, EXCLUDED.token) RETURNING 1",
        (
            table,
            None if mark.newest is None else mark.newest.isoformat(),
            mark.rows,
            mark.rules,
            mark.seen,
            None if position is None else position.change,
            None if position is None else position.token,
            run_id,
        ),
    )
