"""Overrides: manual corrections of values of rejected rows.

The ledger stores them. Each run applies them to its private copy of the source, so that contract,
load and proof see the corrected value; the source itself is never written. An override applies as
long as the source has the value that was corrected. A later change of the source takes precedence.
"""

import math
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core import proof
from pipeline.core.errors import OverrideError
from pipeline.core.findings import OFFENDERS, CheckResult, Overridden
from pipeline.core.messages import FORGET, message
from pipeline.core.policies import Policies
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.contract import StoredValue, is_utf8, stored
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import quarantine, watermarks
from pipeline.move.reading.source_view import SourceView
from pipeline.postgres.driver.statements import Question, single
from pipeline.postgres.target import Target

FIELDS = ("table", "row_id", "key", "column", "storage", "value", "reasons")
"""The fields of an exported record; ``storage`` and ``value`` may be changed and imported."""

_KEPT = "secret"
"""The storage of a secret value, which is neither exported nor changed by an import."""

_HEX = "text hex"
"""The storage of a text that a text file cannot hold: it is written as hexadecimal digits."""


@dataclass(frozen=True)
class Override:
    """A value of a rejected row: in the source, and corrected."""

    table: str
    row_id: str
    original: StoredValue
    corrected: StoredValue


def export(target: Target, tables: Iterable[sa.Table]) -> Iterator[dict[str, str]]:
    """Quarantine as records, one per value; secret values are left out."""
    for declared in tables:
        table, hidden = declared.name, secret.columns(declared)
        for row in quarantine.read(target, table):
            for value in row.values:
                storage, text = (_KEPT, "") if value.column in hidden else _written(value)
                relevant = [r for r in row.reasons if r.column in (None, value.column)]
                yield {
                    "table": table,
                    "row_id": row.row_id,
                    "key": row.key or "",
                    "column": value.column,
                    "storage": storage,
                    "value": text,
                    "reasons": "; ".join(str(reason) for reason in relevant),
                }


def import_overrides(
    target: Target, records: Iterable[Mapping[str, Any]], tables: Iterable[sa.Table] = ()
) -> int:
    """Store every value that differs from quarantine; returns how many.

    Args:
        target: a session within a transaction.
        records: records from ``export``; unchanged ones may be left out.
        tables: the declared tables; errors do not repeat values of other tables.

    Raises:
        OverrideError: a record is malformed, or its row is not in quarantine; names the record.
    """
    changed = 0
    declared = {table.name: table for table in tables}
    for number, record in enumerate(records, start=1):
        table, row_id, column = (
            str(record.get(name, "")) for name in ("table", "row_id", "column")
        )
        quarantined = target.rows(
            "SELECT storage, value FROM migration.quarantine_values"
            " WHERE table_name = $1 AND row_id = $2 AND column_name = $3",
            (table, row_id, column),
        )
        if not quarantined:
            raise OverrideError(
                f"Record {number}: {column or 'no column'} of row {row_id or '(none)'} of"
                f" {table or 'no table'} is not in quarantine",
                remedy="Export quarantine again, and edit the new file",
            )
        hidden = table not in declared or column in secret.columns(declared[table])
        if hidden and record.get("storage") == _KEPT:
            continue
        original = StoredValue(column, *quarantined[0])
        corrected = _read(number, record, column, hidden=hidden)
        if corrected != original:
            _write(target, Override(table, row_id, original, corrected))
            changed += 1
    return changed


def forget(target: Target, table: str) -> int:
    """Discard the overrides of a table; returns how many there were."""
    deleted = target.rows(
        "DELETE FROM migration.overrides WHERE table_name = $1 RETURNING 1", (table,)
    )
    if deleted:
        # The corrected rows are no longer known, so the next run must compare all rows.
        watermarks.forget(target, table)
    return len(deleted)


def read(target: Target, tables: Iterable[str]) -> list[Override]:
    """The overrides of these tables; none if the ledger does not exist."""
    if not target.answer(_TABLE_QUESTION):
        return []
    return target.answer(question(tuple(tables)))


_TABLE_QUESTION = Question(
    "SELECT to_regclass('migration.overrides') IS NOT NULL AS found",
    (),
    single,
)


def question(tables: tuple[str, ...]) -> Question[list[Override]]:
    """The question for the overrides of these tables; the ledger must exist."""
    return Question(
        "SELECT table_name, row_id, column_name, was_storage, was_value, storage, value"
        " FROM migration.overrides WHERE table_name = ANY($1)"
        " ORDER BY array_position($1, table_name), row_id, column_name",
        (tables,),
        lambda rows: [_override(*row) for row in rows],
    )


def _override(table: str, row_id: str, column: str, *values: str | None) -> Override:
    was_storage, was_value, storage, value = values
    return Override(
        table,
        row_id,
        StoredValue(column, str(was_storage), _bytes(was_value)),
        StoredValue(column, str(storage), _bytes(value)),
    )


def _bytes(shown: str | None) -> bytes | None:
    """Bytes, from an escape and hexadecimal digits."""
    return None if shown is None else bytes.fromhex(shown[2:])


def apply(
    source: SourceView,
    tables: Iterable[sa.Table],
    known_overrides: Iterable[Override],
    policies: Policies,
) -> None:
    """Write corrected values to the private copy, and record which overrides apply.

    Raises:
        OverrideError: the schema of the copy does not accept a value.
    """
    declared = {table.name: table for table in tables}
    source.overrides |= {name: [] for name in declared}
    with source.writable(declared.values()) as copy:
        for override in known_overrides:
            if override.table in declared:
                mapping = source.match(declared[override.table], policies)
                holds = _apply(copy, source, mapping, override)
                source.overrides[override.table].append(
                    _finding(override, declared[override.table], holds=holds)
                )


def _finding(override: Override, table: sa.Table, *, holds: bool) -> Overridden:
    original, corrected = _shown(override.original, table), _shown(override.corrected, table)
    column = override.corrected.column
    return Overridden(override.table, override.row_id, column, original, corrected, holds)


def check(found: Sequence[Overridden]) -> CheckResult:
    """No value was corrected manually; the findings name corrected values."""
    figures = {"values": len(found), "outdated": sum(not override.holds for override in found)}
    return proof.OVERRIDES.result(found[:OFFENDERS], figures)


def _write(target: Target, override: Override) -> None:
    was, now = override.original, override.corrected
    target.bound(
        "INSERT INTO migration.overrides"
        " (table_name, row_id, column_name, was_storage, was_value, storage, value)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (table_name, row_id, column_name)"
        " DO UPDATE SET storage = EXCLUDED.storage, value = EXCLUDED.value, since = now()"
        " RETURNING 1",
        (
            override.table,
            override.row_id,
            was.column,
            was.storage,
            was.value,
            now.storage,
            now.value,
        ),
    )


def _apply(
    copy: sqlite3.Connection, source: SourceView, mapping: TableMapping, override: Override
) -> bool:
    column = mapping.in_source(override.corrected.column)
    where = f"{quoted(mapping.name)} WHERE {source.row_id_column(mapping)} = ?"
    row_id = source.row_id_from(mapping, override.row_id)
    found = copy.execute(f"SELECT typeof({column}), {column} FROM {where}", (row_id,)).fetchone()
    if found is None:
        return False
    if stored(override.original.column, found[0].decode(), found[1]) != override.original:
        return False
    slot = "CAST(? AS TEXT)" if override.corrected.storage == "text" else "?"
    name, _, condition = where.partition(" WHERE ")
    try:
        copy.execute(
            f"UPDATE {name} SET {column} = {slot} WHERE {condition}",
            (_native(override.corrected), row_id),
        )
    except sqlite3.Error as error:
        raise OverrideError(
            f"{override.table}, row {override.row_id}: {override.corrected.column} cannot be"
            f" {_shown(override.corrected, mapping.table)!r} ({error})",
            remedy=message("Import another value, or run ", FORGET, f" {override.table}"),
        ) from error
    return True


def _native(value: StoredValue) -> object:
    match value:
        case StoredValue(storage="integer", value=bytes(digits)):
            return int(digits)
        case StoredValue(storage="real", value=bytes(eight)):
            return struct.unpack(">d", eight)[0]
    return value.value


def _written(value: StoredValue) -> tuple[str, str]:
    """Storage and value as written to a text file."""
    match value:
        case StoredValue(value=None):
            return "null", ""
        case StoredValue(storage="real", value=bytes(eight)):
            return "real", repr(struct.unpack(">d", eight)[0])
        case StoredValue(storage="blob", value=bytes(data)):
            return "blob", data.hex()
        case StoredValue(storage="text", value=bytes(text)) if not is_utf8(text) or b"\0" in text:
            return _HEX, text.hex()
    return value.storage, (value.value or b"").decode()


def _shown(value: StoredValue, table: sa.Table) -> str:
    """A stored value for messages; secret values are hidden."""
    return secret.SHOWN if value.column in secret.columns(table) else _written(value)[1]


def _read(
    number: int, record: Mapping[str, Any], column: str, *, hidden: bool = False
) -> StoredValue:
    storage, text = str(record.get("storage", "")), str(record.get("value") or "")
    if storage == "null" and text:
        shown = secret.SHOWN if hidden else f"{text[:60]!r}"
        raise OverrideError(
            f"Record {number}: the storage of {column} is null, but its value is {shown}",
            remedy="Write the storage of the new value, such as text, or remove the value",
        )
    try:
        match storage:
            case "null":
                return StoredValue(column, "null", None)
            case "integer":
                return StoredValue(column, "integer", str(_int64(text)).encode())
            case "real":
                return StoredValue(column, "real", struct.pack(">d", _number(text)))
            case "text":
                return StoredValue(column, "text", text.encode())
            case "blob":
                return StoredValue(column, "blob", bytes.fromhex(text))
            case "text hex":
                return StoredValue(column, "text", bytes.fromhex(text))
    except ValueError as error:
        shown = f"its {secret.SHOWN}" if hidden else f"{text[:60]!r}"
        why = "" if hidden else f" ({error})"
        raise OverrideError(
            f"Record {number}: {shown} is not a valid {storage} value{why}",
            remedy=f"Correct the value of {column}, or its storage",
        ) from None
    raise OverrideError(
        f"Record {number}: storage {storage!r} of {column} is unknown",
        remedy=f"Write null, integer, real, text, blob (hexadecimal) or {_HEX}",
    )


def _int64(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("SQLite integers have 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError("SQLite stores NaN as NULL")
    return number
