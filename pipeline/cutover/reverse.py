"""PostgreSQL values in the format that the application uses in SQLite.

The opposite of the casts in ``mapping/casts``. Only values changed in the target are written in
this format; unchanged values of the source are not rewritten.
"""

import re
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.quoting import literal, quoted
from pipeline.declared.forms import DecimalText, EpochMoment, Unit, WordBoolean
from pipeline.mapping.casts.epochs import DAY_MILLISECONDS, JULIAN_EPOCH, MICROSECONDS
from pipeline.mapping.casts.numbers import EXACT_DIGITS

_LOCAL = "YYYY-MM-DD HH24:MI:SS.US"
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.'

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?!.* BC$)")

ISO = "iso"
"""A value of ``info["moments"]`` of a MetaData: dates have the format of JavaScript's Date."""


def expression(column: sa.Column[Any], *, zone: str, moments: str | None = None) -> str:
    """SQL for a value of this column as SQLite stores it.

    Args:
        zone: the time zone of dates of the source that name none.
        moments: the format of its dates: ISO, or None for local time.
    """
    name = quoted(column.name)
    match column.type:
        case EpochMoment():
            written = _number(name, column.type.unit)
            return f"CASE WHEN isfinite({name}) THEN {written}::text ELSE {name}::text END"
        case WordBoolean():
            true, false = literal(column.type.true), literal(column.type.false)
            return f"CASE WHEN {name} THEN {true} ELSE {false} END"
        case DecimalText():
            return f"{name}::text"
        case sa.DateTime(timezone=False):
            return _if_storable(name, f"to_char({name}, '{_LOCAL}')")
        case sa.Date():
            return _if_storable(name, f"to_char({name}, 'YYYY-MM-DD')")
        case sa.DateTime(timezone=True):
            # The source cannot store infinity; the caller refuses it.
            written = _iso(name) if moments == ISO else _moment(name, zone)
            return f"CASE WHEN isfinite({name}) THEN {written} ELSE {name}::text END"
        case sa.Float():
            # The double that is equal to a real.
            return f"{name}::float8"
        case sa.LargeBinary() | sa.Integer():
            return name
        case sa.Boolean():
            return f"{name}::int"
        case sa.Numeric(precision=digits) if digits is not None and digits <= EXACT_DIGITS:
            return f"{name}::float8"
        case JSONB():
            return f"{name}::text"
        case _:
            return f"{name}::text"


def _if_storable(name: str, written: str) -> str:
    """SQL for a date; one that SQLite cannot store as PostgreSQL writes it, to be refused."""
    storable = f"{name} >= '0001-01-01' AND {name} < '10000-01-01'"
    return f"CASE WHEN {storable} THEN {written} ELSE {name}::text END"


def is_storable(column: sa.Column[Any], value: Any) -> bool:
    """Whether SQLite can store a value of ``expression``, and a move can read it again."""
    match column.type:
        case sa.DateTime(timezone=True):
            return value not in ("infinity", "-infinity")
        case sa.DateTime() | sa.Date():
            return value is None or _DATE.match(value) is not None
        case sa.Time():
            return bool(value != "24:00:00")
        case sa.Float():
            # Python's sqlite3 stores NaN as NULL.
            return bool(value == value)  # noqa: PLR0124
        case sa.Numeric():
            return bool(value == value) and value not in ("NaN", "Infinity", "-Infinity")  # noqa: PLR0124
    return True


def whole(column: sa.Column[Any]) -> str | None:
    """SQL for a moment rounded down to the unit of the source; None if the source has no unit."""
    kind = column.type
    if not isinstance(kind, EpochMoment) or kind.unit == "microseconds":
        return None
    unit = "second" if kind.unit == "seconds" else "milliseconds"
    return f"date_trunc('{unit}', {quoted(column.name)})"


def stored(column: sa.Column[Any], value: Any, *, as_bytes: bool = False) -> Any:
    """A value from the target as Python's sqlite3 stores it.

    Args:
        as_bytes: the source stores UUIDs as BLOBs.
    """
    if as_bytes and value is not None:
        return UUID(value).bytes
    if not isinstance(column.type, EpochMoment) or value in (None, "infinity", "-infinity"):
        return value
    return float(value) if column.type.unit == "julian_days" else int(value)


def _number(name: str, unit: Unit) -> str:
    since = f"extract(epoch FROM {name})"
    if unit == "julian_days":
        milliseconds = f"(floor({since} * 1000) + {JULIAN_EPOCH})"
        return f"({milliseconds}::float8 / {DAY_MILLISECONDS}::float8)"
    return f"floor({since} * {1_000_000 // MICROSECONDS[unit]})::bigint"


def _moment(name: str, zone: str) -> str:
    """Local time as the application writes it, with its offset if it is ambiguous."""
    literal = "'" + zone.replace("'", "''") + "'"
    if zone == "UTC":
        return f"to_char({name} AT TIME ZONE 'UTC', '{_LOCAL}')"
    hour = "interval '1 hour'"
    local = f"{name} AT TIME ZONE {literal}"
    return (
        f"CASE WHEN ({name} + {hour}) AT TIME ZONE {literal} = {local}"
        f" OR ({name} - {hour}) AT TIME ZONE {literal} = {local}"
        f" THEN to_char({name} AT TIME ZONE 'UTC', '{_LOCAL}') || '+00:00'"
        f" ELSE to_char({local}, '{_LOCAL}') END"
    )


def _iso(name: str) -> str:
    """UTC with ``Z`` and milliseconds, or microseconds if there are any."""
    utc = f"{name} AT TIME ZONE 'UTC'"
    return (
        f"to_char({utc}, CASE WHEN extract(microseconds FROM {name})::bigint % 1000 = 0"
        f""" THEN '{_ISO}MS"Z"' ELSE '{_ISO}US"Z"' END)"""
    )
