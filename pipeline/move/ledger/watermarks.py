"""Watermarks: how far the source of a table has been read; committed together with its rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from pipeline.core.policies import Policies
from pipeline.mapping.casts.cast import ForeseenRule
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.contract import compile_contract
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.source_view import SourceView
from pipeline.postgres.driver.statements import Question, Rows, single
from pipeline.postgres.target import Target
from pipeline.sqlite.catalog.change_log import Position

PART = "part"
"""The rules of a table of which only a part was moved; the rules of the other rows are unknown."""
_FORGOTTEN = ""
"""The rules of an invalid watermark."""


@dataclass(frozen=True)
class Watermark:
    """What the last run that moved a table has read.

    Attributes:
        newest: the largest date of change of all rows that were read, if any.
        rules: digest of the rules that determine how values move, or PART.
        fingerprint: fingerprint of the source file, None if it is not reliable.
        position: the last entry of the source's change log that was read, None without tracking.
    """

    newest: datetime | None
    rows: int
    rules: str
    fingerprint: str | None
    position: Position | None

    @property
    def is_part(self) -> bool:
        """Whether only a part of the table has moved since its last complete move, if any."""
        return self.rules == PART


def rules_digest(mapping: TableMapping) -> str:
    """A digest of columns, rules and policies; if it changes, every value must be compared."""
    rules = [(column.name, type_name(column.type)) for column in mapping.columns]
    rules += [
        (column, repr(rule))
        for column, rule in compile_contract(mapping).rules
        if not isinstance(rule, ForeseenRule)
    ]
    policies = mapping.policies
    rules += [("naive_zone", policies.naive_zone), ("lossy", policies.lossy_conversions)]
    rules += [(name, repr(value)) for name, value in sorted(policies.forbidden_nulls.items())]
    rules += [(name, "unwrapped") for name in sorted(mapping.double_encoded)]
    return hashlib.sha256(repr(rules).encode()).hexdigest()


def common_rules_digest(tables: Sequence[sa.Table], source: SourceView, policies: Policies) -> str:
    """A digest of the rules of several tables, as this source makes them."""
    rules = [rules_digest(source.match(table, policies)) for table in tables]
    return hashlib.sha256("".join(rules).encode()).hexdigest()


def read(target: Target, table: str) -> Watermark | None:
    """The watermark of a table; None if it has none or an invalid one. The ledger must exist."""
    return target.answer(question(table))


def question(table: str) -> Question[Watermark | None]:
    """The question for the watermark of a table."""
    return Question(
        "SELECT newest, rows, rules, fingerprint, change, token FROM migration.watermarks"
        " WHERE table_name = $1 AND rules <> $2",
        (table, _FORGOTTEN),
        _watermark,
    )


def _watermark(found: Rows) -> Watermark | None:
    if not found:
        return None
    newest, rows, rules, fingerprint, change, token = found[0]
    return Watermark(
        newest and datetime.fromisoformat(newest),
        rows,
        rules,
        fingerprint,
        None if change is None else Position(change, token),
    )


def any_newer(target: Target, tables: Sequence[str], *, than: str) -> bool:
    """Whether any of these tables was moved after table ``than``."""
    return target.answer(any_newer_question(tables, than=than))


def any_newer_question(tables: Sequence[str], *, than: str) -> Question[bool]:
    """The question whether any of these tables was moved after table ``than``."""
    return Question(
        "SELECT EXISTS (SELECT FROM migration.watermarks AS a JOIN migration.watermarks AS b"
        " ON a.at > b.at WHERE a.table_name = ANY($1) AND b.table_name = $2) AS found",
        (tuple(tables), than),
        single,
    )


def forget(target: Target, table: str) -> None:
    """Invalidate a watermark, so that the next run compares every value of the table."""
    target.rows(
        "UPDATE migration.watermarks SET rules = $2 WHERE table_name = $1 RETURNING 1",
        (table, _FORGOTTEN),
    )


def write(target: Target, table: str, mark: Watermark, *, run_id: str) -> None:
    """Store a watermark."""
    position = mark.position
    target.defer(
        "INSERT INTO migration.watermarks"
        " (table_name, newest, rows, rules, fingerprint, change, token, run_id)"
        " VALUES ($1, $2::timestamptz, $3, $4, $5, $6, $7, $8)"
        " ON CONFLICT (table_name) DO UPDATE SET newest = EXCLUDED.newest,"
        " rows = EXCLUDED.rows, rules = EXCLUDED.rules,"
        " fingerprint = EXCLUDED.fingerprint, change = EXCLUDED.change, token = EXCLUDED.token,"
        " run_id = EXCLUDED.run_id, at = now()",
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


def is_committed(target: Target, table: str, *, run_id: str) -> bool:
    """Whether the last committed move of a table was made by this run. The ledger must exist."""
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM migration.watermarks WHERE table_name = $1"
            " AND run_id = $2)",
            (table, run_id),
        )
    )


def moved_by_others(target: Target, *, run_id: str, seconds: float) -> list[str]:
    """The tables that other runs have moved within the last seconds."""
    if not target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL"):
        return []
    rows = target.rows(
        "SELECT table_name FROM migration.watermarks WHERE run_id <> $1"
        " AND at > now() - make_interval(secs => $2) ORDER BY at",
        (run_id, seconds),
    )
    return [name for (name,) in rows]
