"""Encode dates and times as PostgreSQL stores them, counted from 2000-01-01."""

import math
import re
import struct
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(2000, 1, 1)
_UNIX_2000 = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970."""
_JULIAN_2000 = 211_813_444_800_000
"""2000-01-01 in milliseconds of SQLite's julian days."""
_DAY = 86_400_000_000
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_MOMENT = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?)?"
    rb"(?: *(Z|([+-])(\d\d):(\d\d)))?"
)
_DATE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)")
_TIME = re.compile(rb"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?")


def epoch(value: Any, *, unit: str, zone: ZoneInfo | None) -> bytes:
    """Encode a number of a unit, or a moment as text."""
    if isinstance(value, bytes):
        if not NUMBER.fullmatch(value):
            return moment(value, zone=zone)
        value = float(value) if b"." in value else int(value)
    if unit == "julian_days":
        # As SQLite does: whole milliseconds, half a millisecond up.
        since = (math.floor(value * 86_400_000.0 + 0.5) - _JULIAN_2000) * 1000
    else:
        factor = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}[unit]
        since = value * factor if isinstance(value, int) else _whole(value * float(factor))
        since -= _UNIX_2000
    return struct.pack(">q", since)


def _whole(value: float) -> int:
    """Rounded to an integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def moment(value: Any, *, zone: ZoneInfo | None, naive: bool = False) -> bytes:
    """Encode a moment.

    Args:
        zone: the zone of moments that name none.
        naive: the type has no zone, so no moment may name one.
    """
    found = _MOMENT.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        raise ValueError("not a timestamp")
    *parts, fraction, named, sign, hours, minutes = found.groups()
    local = datetime(*(int(part or 0) for part in parts))  # type: ignore[arg-type]
    digits = (fraction or b"").ljust(7, b"0")
    since = (local - _EPOCH) // _MICROSECOND + int(digits[:6]) + (digits[6:7] >= b"5")
    if naive and named is not None:
        raise ValueError("names a time zone")
    if sign:
        offset = (int(hours) * 60 + int(minutes)) * 60_000_000
        since -= offset if sign == b"+" else -offset
    elif named is None and zone is not None:
        since -= (local.replace(tzinfo=zone).utcoffset() or timedelta()) // _MICROSECOND
    return struct.pack(">q", since)


def day(value: Any) -> bytes:
    """Encode a date."""
    found = _DATE.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        raise ValueError("not a date")
    year, month, number = map(int, found.groups())
    return struct.pack(">i", (date(year, month, number) - _EPOCH.date()).days)


def time_of_day(value: Any) -> bytes:
    """Encode a time of day."""
    found = _TIME.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        raise ValueError("not a time")
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    digits = (found.group(4) or b"").ljust(7, b"0")
    since = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000
    since += int(digits[:6]) + (digits[6:7] >= b"5")
    if not (hours < 24 and minutes < 60 and seconds < 60 and since < _DAY):
        raise ValueError("not a time")
    return struct.pack(">q", since)


def shown_moment(encoded: bytes, *, naive: bool) -> str:
    """An encoded moment for messages."""
    (since,) = struct.unpack(">q", encoded)
    try:
        return f"{_EPOCH + since * _MICROSECOND}{'' if naive else ' UTC'}"
    except OverflowError:
        return "infinity"


def shown_day(encoded: bytes) -> str:
    """An encoded date for messages."""
    (days,) = struct.unpack(">i", encoded)
    try:
        return str(_EPOCH.date() + timedelta(days=days))
    except OverflowError:
        return "infinity" if abs(days) >= 2**31 - 1 else f"{days} days since 2000-01-01"


def shown_time(encoded: bytes) -> str:
    """An encoded time of day for messages."""
    (since,) = struct.unpack(">q", encoded)
    return "24:00:00" if since == _DAY else str((_EPOCH + since * _MICROSECOND).time())
