"""Sign-offs of rows that may stay in quarantine, each with a name and a reason.

A sign-off is valid for one version of the row. It ends when a value or a rejection reason changes.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from pipeline.core.errors import SettingsError
from pipeline.core.messages import EXPORT, message
from pipeline.postgres.target import Target

_VALID = (
    "FROM migration.quarantine AS q LEFT JOIN migration.signed_off AS s"
    " ON (s.table_name, s.row_id, s.fingerprint) = (q.table_name, q.row_id, q.fingerprint)"
)


def sign(target: Target, table: str, *, row_ids: Sequence[str], by: str, reason: str) -> int:
    """Sign off rows in quarantine, within a transaction; returns how many.

    Args:
        target: a session within a transaction.
        row_ids: keys or row ids; none means all rows that are in quarantine now.

    Raises:
        SettingsError: there is no such row, or the name or the reason is missing.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError(
            "A sign-off needs a name and a reason", remedy="Add --by NAME --reason TEXT"
        )
    waiting = target.rows(
        "SELECT row_id, coalesce(source_key, row_id), fingerprint FROM migration.quarantine"
        " WHERE table_name = $1",
        (table,),
    )
    unknown = set(row_ids) - {name for row_id, key, _ in waiting for name in (row_id, key)}
    if unknown or not waiting:
        raise SettingsError(
            f"No row {', '.join(sorted(unknown)) or 'at all'} of {table} is in quarantine",
            remedy=message("Run ", EXPORT, " to list the rows in quarantine"),
        )
    selected = [row for row in waiting if not row_ids or {row[0], row[1]} & set(row_ids)]
    for row_id, _, fingerprint in selected:
        target.rows(
            "INSERT INTO migration.signed_off (table_name, row_id, fingerprint, by_whom, reason)"
            " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (table_name, row_id) DO UPDATE SET"
            " fingerprint = EXCLUDED.fingerprint, by_whom = EXCLUDED.by_whom,"
            " reason = EXCLUDED.reason, at = now() RETURNING 1",
            (table, row_id, fingerprint, by, reason),
        )
    return len(selected)


def undo(target: Target, table: str, *, row_ids: Sequence[str]) -> int:
    """Revoke sign-offs, within a transaction; returns how many.

    Args:
        target: a session within a transaction.
        row_ids: keys or row ids; none means all.
    """
    selected = (
        "SELECT row_id FROM migration.quarantine WHERE table_name = $1"
        " AND (row_id = ANY($2) OR source_key = ANY($2))"
    )
    deleted = target.rows(
        "DELETE FROM migration.signed_off WHERE table_name = $1"
        f" AND (cardinality($2::text[]) = 0 OR row_id = ANY($2) OR row_id IN ({selected}))"
        " RETURNING 1",
        (table, list(row_ids)),
    )
    return len(deleted)


def unsigned(target: Target, table: str) -> list[str]:
    """Keys (or else row ids) of the rows in quarantine that are not signed off."""
    return [
        name
        for (name,) in target.rows(
            f"SELECT coalesce(q.source_key, q.row_id) {_VALID}"
            " WHERE q.table_name = $1 AND s.row_id IS NULL ORDER BY 1",
            (table,),
        )
    ]


def count(target: Target, tables: Sequence[sa.Table]) -> int:
    """How many rows in quarantine have a valid sign-off."""
    return int(
        target.value(
            f"SELECT count(*) {_VALID} WHERE q.table_name = ANY($1) AND s.row_id IS NOT NULL",
            ([table.name for table in tables],),
        )
    )
