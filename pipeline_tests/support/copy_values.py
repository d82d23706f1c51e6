"""Values of both sides of a copy, in a form in which equal values are equal."""

import functools
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

TEXTS = {"timestamp with time zone": "::text", "timestamp without time zone": "::text"}
"""Read as texts, because Python has no year 0 and no year 10000."""


@functools.cache
def base_of(kind: str) -> str:
    """A type without its length."""
    return re.sub(r"\(.*?\)", "", kind)


def ours(value: Any, kind: str) -> object:
    """A value of SQLite, as the type of the target represents it."""
    base = base_of(kind)
    if value is None:
        return None
    if base == "boolean":
        known = {"1": True, "t": True, "true": True, "y": True, "yes": True, "on": True}
        return known.get(str(value).lower(), False)
    if base in ("smallint", "integer", "bigint"):
        return int(value)
    if base in ("double precision", "real"):
        return float(value)
    if base == "numeric":
        return Decimal(repr(value) if isinstance(value, float) else value)
    if base == "bytea":
        return value if isinstance(value, bytes) else str(value).encode()
    if base == "jsonb":
        return _frozen(json.loads(value) if isinstance(value, str) else value)
    if base == "uuid":
        return UUID(value)
    if base in _MOMENTS:
        return _MOMENTS[base](value)
    return str(value) if isinstance(value, int | float) else value


def theirs(value: Any, kind: str) -> object:
    """A value of PostgreSQL, in the same form."""
    base = base_of(kind)
    if value is None:
        return None
    if base == "bytea":
        return bytes(value)
    if base == "jsonb":
        return _frozen(value)
    if base == "uuid":
        return UUID(str(value))
    if base in TEXTS:
        return _MOMENTS[base](value)
    return value


def _zoned(text: str) -> datetime:
    text = re.sub(r" ?Z$", "+00:00", text)
    text = re.sub(r"([+-]\d\d)$", r"\1:00", text)
    return datetime.fromisoformat(text).astimezone(UTC)


def _naive(text: str) -> datetime:
    return datetime.fromisoformat(text)


_MOMENTS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "time without time zone": time.fromisoformat,
    "timestamp with time zone": _zoned,
    "timestamp without time zone": _naive,
}


def _frozen(value: Any) -> object:
    """A value of JSON that can be counted; numbers are equal by value."""
    if isinstance(value, dict):
        return frozenset((name, _frozen(each)) for name, each in value.items())
    if isinstance(value, list):
        return ("list", *map(_frozen, value))
    return (type(value).__name__ if isinstance(value, bool) else "", value)


_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def loose(value: Any) -> object:
    """A value of a view, whose type is not declared."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float | Decimal):
        return float(f"{float(value):.12g}")
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        # A column of numbers and texts is a text in the target.
        return loose(Decimal(value))
    if isinstance(value, datetime | date):
        return str(value)
    return value
