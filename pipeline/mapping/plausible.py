"""Numbers that are plausible moments, counted in a unit from an epoch."""

from datetime import UTC, datetime, timedelta

from pipeline.declared.forms import Unit
from pipeline.mapping.casts.epochs import DAY_MILLISECONDS, JULIAN_EPOCH, MICROSECONDS

FIRST, LAST = 100_000_000, 4_102_444_800
"""1973 and 2100 in seconds since 1970; within them, one number has one plausible unit."""
MOST = 0.9
"""The share of plausible moments; the others may be dates such as 9999-12-31, which mean never."""
WORDS = ("t/f", "true/false", "yes/no", "y/n", "on/off")
"""Pairs of words for true and false."""


def number_at(since: int, unit: Unit) -> float:
    """The number of a unit for a moment in seconds since 1970."""
    if unit == "julian_days":
        return (since * 1000 + JULIAN_EPOCH) / DAY_MILLISECONDS
    return since * 1_000_000 // MICROSECONDS[unit]


def seconds_at(number: float, unit: Unit) -> float:
    """Seconds since 1970 for a number of a unit."""
    if unit == "julian_days":
        return (number * DAY_MILLISECONDS - JULIAN_EPOCH) / 1000
    return number * MICROSECONDS[unit] / 1_000_000


def moment_text(since: float) -> str:
    """A moment in seconds since 1970, for people."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=since)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
