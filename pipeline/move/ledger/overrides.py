"""Values of rejected rows that a person mended.

They are kept in the ledger and put into every run's private copy of the source, so that contract,
load and proof see the mended value; the source itself is never written. A mend holds for as long
as the source still has the value that was mended: whoever corrects the source has the last word.
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
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.contract import StoredValue, is_utf8, stored
from pipeline.mapping.table_mapping import match
from pipeline.move.ledger import quarantine, watermarks
from pipeline.move.reading.extract import Source
from pipeline.postgres.target import Target

FIELDS = ("table", "row_id", "key", "column", "storage", "value", "reasons")
"""What a record of an export says; ``storage`` and ``value`` may be changed and fed back."""

_KEPT = "secret"
"""The storage of a value that is not written, and that is left as it is."""

_HEX = "text hex"
"""The storage of a text that no file of text can hold: it is written as hexadecimal digits."""


@dataclass(frozen=True)
class Override:
    """A value of a rejected row, as it was in the source and as it shall be."""

    table: str
    row_id: str
    was: StoredValue
    now: StoredValue


def export(target: Target, tables: Iterable[sa.Table]) -> Iterator[dict[str, str]]:
    """Quarantine as records, one for each value of each row; secret values are not written."""
    for declared in tables:
        table, hidden = declared.name, secret.columns(declared)
        for row in quarantine.read(target, table):
            for value in row.values:
                storage, text = (_KEPT, "") if value.column in hidden else _written(value)
                concerning = [r for r in row.reasons if r.column in (None, value.column)]
                yield {
                    "table": table,
                    "row_id": row.row_id,
                    "key": row.key or "",
                    "column": value.column,
                    "storage": storage,
                    "value": text,
                    "reasons": "; ".join(str(reason) for reason in concerning),
                }


def take_in(
    target: Target, records: Iterable[Mapping[str, Any]], tables: Iterable[sa.Table] = ()
) -> int:
    """Note every value that differs from quarantine's; returns how many there are.

    Args:
        target: a session within a transaction.
        records: as ``export`` gives them; those that were not changed may be left out.
        tables: the declared tables; of others no value is repeated in an error.

    Raises:
        OverrideError: a record is malformed, or its row is not in quarantine; it names the record.
    """
    changed = 0
    declared = {table.name: table for table in tables}
    for number, record in enumerate(records, start=1):
        table, row_id, column = (
            str(record.get(name, "")) for name in ("table", "row_id", "column")
        )
        there = target.rows(
            "SELECT storage, value FROM migration.quarantine_values"
            " WHERE table_name = $1 AND row_id = $2 AND column_name = $3",
            (table, row_id, column),
        )
        if not there:
            raise OverrideError(
                f"Record {number}: {column or 'no column'} of row {row_id or '(none)'} of"
                f" {table or 'no table'} is not in quarantine",
                remedy="Export quarantine again, and mend that file",
            )
        hidden = table not in declared or column in secret.columns(declared[table])
        if hidden and record.get("storage") == _KEPT:
            continue
        now = _read(number, record, column, hidden=hidden)
        if now != StoredValue(column, *there[0]):
            _note(target, table, row_id, StoredValue(column, *there[0]), now)
            changed += 1
    return changed


def forget(target: Target, table: str) -> int:
    """Let the source's values of a table stand again; returns how many mends there were."""
    gone = target.rows(
        "DELETE FROM migration.overrides WHERE table_name = $1 RETURNING 1", (table,)
    )
    if gone:
        # Which rows had mended values is not known any more, so all have to be looked at.
        watermarks.forget(target, table)
    return len(gone)


def read(target: Target, tables: Iterable[str]) -> list[Override]:
    """Every mend of these tables; none where the ledger has not been made."""
    if not target.value("SELECT to_regclass('migration.overrides') IS NOT NULL"):
        return []
    return [
        Override(table, row_id, StoredValue(column, *was), StoredValue(column, *now))
        for table in tables
        for row_id, column, was, now in _mended(target, table)
    ]


def apply(source: Source, tables: Iterable[sa.Table], known_overrides: Iterable[Override]) -> None:
    """Put mended values into the private copy, and note in it which of them hold.

    Raises:
        OverrideError: the copy's own schema has no room for a value.
    """
    declared = {table.name: table for table in tables}
    source.overrides |= {name: [] for name in declared}
    with source.writable(declared.values()) as copy:
        for override in known_overrides:
            if override.table in declared:
                holds = _apply(copy, source, declared[override.table], override)
                source.overrides[override.table].append(
                    _finding(override, declared[override.table], holds=holds)
                )


def _finding(override: Override, table: sa.Table, *, holds: bool) -> Overridden:
    was, now = _shown(override.was, table), _shown(override.now, table)
    return Overridden(override.table, override.row_id, override.now.column, was, now, holds)


def check(found: Sequence[Overridden]) -> CheckResult:
    """No value was mended by a person; those that were are named."""
    figures = {"values": len(found), "outdated": sum(not overrides.holds for overrides in found)}
    return proof.OVERRIDES.result(found[:OFFENDERS], figures)


def _mended(target: Target, table: str) -> Iterator[tuple[str, str, Any, Any]]:
    for row_id, column, *values in target.rows(
        "SELECT row_id, column_name, was_storage, was_value, storage, value"
        " FROM migration.overrides WHERE table_name = $1 ORDER BY row_id, column_name",
        (table,),
    ):
        yield row_id, column, values[:2], values[2:]


def _note(target: Target, table: str, row_id: str, was: StoredValue, now: StoredValue) -> None:
    target.rows(
        "INSERT INTO migration.overrides"
        " (table_name, row_id, column_name, was_storage, was_value, storage, value)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (table_name, row_id, column_name)"
        " DO UPDATE SET storage = EXCLUDED.storage, value = EXCLUDED.value, since = now()"
        " RETURNING 1",
        (table, row_id, was.column, was.storage, was.value, now.storage, now.value),
    )


def _apply(copy: sqlite3.Connection, source: Source, table: sa.Table, override: Override) -> bool:
    mapping = match(table, source.columns(table.name))
    column = quoted(override.now.column)
    where = f"{quoted(table.name)} WHERE {source.row_id_column(mapping)} = ?"
    row_id = source.row_id_from(mapping, override.row_id)
    found = copy.execute(f"SELECT typeof({column}), {column} FROM {where}", (row_id,)).fetchone()
    if found is None or stored(override.was.column, found[0].decode(), found[1]) != override.was:
        return False
    slot = "CAST(? AS TEXT)" if override.now.storage == "text" else "?"
    name, _, condition = where.partition(" WHERE ")
    try:
        copy.execute(
            f"UPDATE {name} SET {column} = {slot} WHERE {condition}",
            (_native(override.now), row_id),
        )
    except sqlite3.Error as error:
        raise OverrideError(
            f"{override.table}, row {override.row_id}: {override.now.column} cannot be"
            f" {_shown(override.now, table)!r} ({error})",
            remedy=message("Mend it otherwise, or run ", FORGET, f" {override.table}"),
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
    """A stored value as a file of text has it: storage and value."""
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
    """A stored value for people."""
    return secret.SHOWN if value.column in secret.columns(table) else _written(value)[1]


def _read(
    number: int, record: Mapping[str, Any], column: str, *, hidden: bool = False
) -> StoredValue:
    storage, text = str(record.get("storage", "")), str(record.get("value") or "")
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
        said = f"its {secret.SHOWN}" if hidden else f"{text[:60]!r}"
        why = "" if hidden else f" ({error})"
        raise OverrideError(
            f"Record {number}: {said} is no {storage}{why}",
            remedy=f"Correct the value of {column}, or its storage",
        ) from None
    raise OverrideError(
        f"Record {number}: storage {storage!r} of {column} is unknown",
        remedy=f"Write null, integer, real, text, blob (hexadecimal) or {_HEX}",
    )


def _int64(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("SQLite's integers have 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError("SQLite keeps NULL instead")
    return number
