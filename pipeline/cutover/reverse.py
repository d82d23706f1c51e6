"""PostgreSQL values in the form in which the application keeps them in SQLite.

The opposite of the casts in ``mapping/types.py``. Only what changed in the target is written in
this form; a value that is as it was keeps the letters that the source has.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core.quoting import quoted
from pipeline.mapping.types import EXACT_DIGITS

_LOCAL = "YYYY-MM-DD HH24:MI:SS.US"
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.'

ISO = "iso"
"""In a MetaData's ``info["moments"]``: its application writes dates as JavaScript's Date does."""


def expression(column: sa.Column[Any], *, zone: str, moments: str | None = None) -> str:
    """SQL that gives a value of this column as SQLite is to hold it.

    Args:
        column: a column of the target.
        zone: the zone of the source's dates that name none.
        moments: the form of its dates: ISO, or None for local time.
    """
    name = quoted(column.name)
    match column.type:
        case sa.DateTime(timezone=True):
            # What has no end has no letters either, and no place in the source.
            written = _iso(name) if moments == ISO else _moment(name, zone)
            return f"CASE WHEN isfinite({name}) THEN {written} ELSE {name}::text END"
        case sa.LargeBinary() | sa.Integer() | sa.Float():
            return name
        case sa.Boolean():
            return f"{name}::int"
        case sa.Numeric(precision=digits) if digits is not None and digits <= EXACT_DIGITS:
            return f"{name}::float8"
        case JSONB():
            return f"{name}::text"
        case _:
            return f"{name}::text"


def _moment(name: str, zone: str) -> str:
    """The local time, as the application writes it; with its offset where that is ambiguous."""
    there = "'" + zone.replace("'", "''") + "'"
    if zone == "UTC":
        return f"to_char({name} AT TIME ZONE 'UTC', '{_LOCAL}')"
    hour = "interval '1 hour'"
    local = f"{name} AT TIME ZONE {there}"
    return (
        f"CASE WHEN ({name} + {hour}) AT TIME ZONE {there} = {local}"
        f" OR ({name} - {hour}) AT TIME ZONE {there} = {local}"
        f" THEN to_char({name} AT TIME ZONE 'UTC', '{_LOCAL}') || '+00:00'"
        f" ELSE to_char({local}, '{_LOCAL}') END"
    )


def _iso(name: str) -> str:
    """Milliseconds in UTC, with a ``Z``; microseconds only where there are any."""
    utc = f"{name} AT TIME ZONE 'UTC'"
    return (
        f"to_char({utc}, CASE WHEN extract(microseconds FROM {name})::bigint % 1000 = 0"
        f""" THEN '{_ISO}MS"Z"' ELSE '{_ISO}US"Z"' END)"""
    )
