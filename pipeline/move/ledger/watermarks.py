"""Up to where a table's source has been read; committed with the rows that it speaks of."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from pipeline.core.policies import Policies
from pipeline.mapping.contract import contract_of
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.mapping.types import type_name
from pipeline.move.reading.extract import Source
from pipeline.postgres.target import Target
from pipeline.sqlite.tracking import Position

PART = "part"
"""In the place of rules: what has moved is a part, and nobody knows under which rules the rest."""
_FORGOTTEN = ""
"""The rules of a watermark that nobody goes by any more."""


@dataclass(frozen=True)
class Watermark:
    """What the last run that moved a table has seen.

    Attributes:
        newest: the largest date of change of any row that was read, None if none has one.
        rows: rows of the target then.
        rules: digest of what decides how values move, or PART.
        fingerprint: what the source file looked like, None if that could not tell.
        position: the last entry that was read of the source's log, None where it is not tracked.
    """

    newest: datetime | None
    rows: int
    rules: str
    fingerprint: str | None
    position: Position | None

    @property
    def is_part(self) -> bool:
        """Whether only a part of the table has moved since it was seen whole, if it ever was."""
        return self.rules == PART


def rules_of(mapping: TableMapping) -> str:
    """A digest of columns, rules and policies: other ones need every value to be looked at."""
    told = [(column.name, type_name(column.type)) for column in mapping.columns]
    told += [(column, repr(rule)) for column, rule in contract_of(mapping).rules]
    policies = mapping.policies
    told += [("naive_zone", policies.naive_zone), ("lossy", policies.lossy_conversions)]
    told += [(name, repr(value)) for name, value in sorted(policies.forbidden_nulls.items())]
    told += [(name, "unwrapped") for name in sorted(mapping.double_encoded)]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def rules_of_all(tables: Sequence[sa.Table], source: Source, policies: Policies) -> str:
    """A digest of the rules of several tables, as this source makes them."""
    rules = [rules_of(match(table, source.columns(table.name), policies)) for table in tables]
    return hashlib.sha256("".join(rules).encode()).hexdigest()


def read(target: Target, table: str) -> Watermark | None:
    """The watermark of a table; None if it has none, or it was forgotten. The ledger is there."""
    found = target.rows(
        "SELECT newest, rows, rules, fingerprint, change, token FROM migration.watermarks"
        " WHERE table_name = $1 AND rules <> $2",
        (table, _FORGOTTEN),
    )
    if not found:
        return None
    newest, rows, rules, fingerprint, change, token = found[0]
    return Watermark(
        newest, rows, rules, fingerprint, None if change is None else Position(change, token)
    )


def any_newer(target: Target, tables: Sequence[str], *, than: str) -> bool:
    """Whether one of some tables has moved after another."""
    if not tables:
        return False
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM migration.watermarks AS a JOIN migration.watermarks AS b"
            " ON a.at > b.at WHERE a.table_name = ANY($1) AND b.table_name = $2)",
            (list(tables), than),
        )
    )


def forget(target: Target, table: str) -> None:
    """Let the next run look at every value of a table; that it has moved stays known."""
    target.rows(
        "UPDATE migration.watermarks SET rules = $2 WHERE table_name = $1 RETURNING 1",
        (table, _FORGOTTEN),
    )


def write(target: Target, table: str, mark: Watermark, *, run_id: str) -> None:
    """Note a watermark."""
    position = mark.position
    target.rows(
        "INSERT INTO migration.watermarks"
        " (table_name, newest, rows, rules, fingerprint, change, token, run_id)"
        # Bound as a moment, a NULL would make the driver begin and commit around the statement.
        " VALUES ($1, $2::text::timestamptz, $3, $4, $5, $6, $7, $8)"
        " ON CONFLICT (table_name) DO UPDATE SET newest = EXCLUDED.newest,"
        " rows = EXCLUDED.rows, rules = EXCLUDED.rules,"
        " fingerprint = EXCLUDED.fingerprint, change = EXCLUDED.change, token = EXCLUDED.token,"
        " run_id = EXCLUDED.run_id, at = now() RETURNING 1",
        (
            table,
            None if mark.newest is None else mark.newest.isoformat(),
            mark.rows,
            mark.rules,
            mark.fingerprint,
            None if position is None else position.change,
            None if position is None else position.token,
            run_id,
        ),
    )
