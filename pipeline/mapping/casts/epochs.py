"""Moments that the source writes as numbers from an epoch, and their conversion to timestamptz."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.declared.forms import Unit
from pipeline.mapping.casts.cast import (
    UTC_MICROSECONDS,
    Cast,
    Converted,
    Originals,
    Rule,
    is_number,
    shortest,
)
from pipeline.mapping.casts.moments import (
    YEAR_10000,
    YEAR_ONE,
    moment_rules,
    require_years,
    timestamptz,
)

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
DAY_MILLISECONDS = 86_400_000
JULIAN_EPOCH = 210_866_760_000_000
"""1970-01-01 in milliseconds of SQLite's julian days, which have no finer unit."""

_TEXT = "@"
"""Begins the raw text of a value that is no number."""
_READ = r"^(?P<since>-?\d+)(?: (?P<original>\S+))?$"


def epoch(unit: Unit, naive_zone: str) -> Cast:
    """The cast of a timestamptz whose source has numbers of a unit, or dates as text.

    Its raw texts are microseconds since 1970, followed by the source's number if it is finer.
    """
    dates = timestamptz(naive_zone)

    def convert(values: pa.Array) -> Converted:
        try:
            since = values.cast(pa.int64())
        except pa.ArrowInvalid:
            return _mixed(values, dates)
        require_years(since)
        return Converted(since.cast(UTC_MICROSECONDS))

    return Cast(
        storage=("integer", "real", "text"),
        sentinel="''",
        raw=pa.string(),
        rules=lambda c: _rules(c, unit),
        read=lambda c: _read(c, unit),
        convert=convert,
        target_form=lambda values: values.cast(UTC_MICROSECONDS),
        originals=_originals,
    )


def _read(c: str, unit: Unit) -> str:
    number = f"CAST({c} AS NUMERIC)"
    if unit == "julian_days":
        scaled = f"{number} * {DAY_MILLISECONDS}.0"
        whole = f"CAST({scaled} + 0.5 AS INTEGER)"
        since = f"({whole} - {JULIAN_EPOCH}) * 1000"
        exact = f"{whole} / {DAY_MILLISECONDS}.0 = {number}"
        converted = _with_original(since, exact, number)
    else:
        factor = MICROSECONDS[unit]
        scaled = f"abs({number}) * {factor}.0"
        whole = f"(CASE WHEN {number} < 0 THEN -1 ELSE 1 END * CAST({scaled} + 0.5 AS INTEGER))"
        finer = _with_original(whole, f"{whole} / {factor}.0 = {number}", number)
        as_integer = f"CAST({number} * {factor} AS TEXT)"
        converted = f"CASE typeof({number}) WHEN 'integer' THEN {as_integer} ELSE {finer} END"
    return (
        f"CASE WHEN typeof({c}) IN ('null', 'blob') THEN {c}"
        f" WHEN typeof({c}) = 'text' AND NOT {is_number(c)} THEN '{_TEXT}' || {c}"
        f" ELSE {converted} END"
    )


def _with_original(since: str, exact: str, number: str) -> str:
    finer = shortest(f"({number} + 0.0)")
    return f"CASE WHEN {exact} THEN CAST({since} AS TEXT) ELSE {since} || ' ' || {finer} END"


def _rules(c: str, unit: Unit) -> tuple[Rule, ...]:
    no_nul, date = moment_rules(c)
    is_text = f"typeof({c}) = 'text' AND NOT {is_number(c)}"
    if unit == "julian_days":
        low, high = (
            (end // 1000 + JULIAN_EPOCH) / DAY_MILLISECONDS for end in (YEAR_ONE, YEAR_10000)
        )
    else:
        low, high = (end // MICROSECONDS[unit] for end in (YEAR_ONE, YEAR_10000))
    number = f"CAST({c} AS NUMERIC)"
    return (
        no_nul,
        Rule(date.code, date.message, f"{is_text} AND ({date.violated})", cast=True),
        Rule(
            "range",
            f"as {unit.replace('_', ' ')} is before the year 1 or after the year 9999",
            f"typeof({c}) <> 'blob' AND NOT ({is_text})"
            f" AND NOT ({number} >= {low} AND {number} < {high})",
            cast=True,
        ),
    )


def _mixed(values: pa.Array, dates: Cast) -> Converted:
    """Numbers, some of them finer than microseconds, and dates."""
    parts = pc.extract_regex(values, _READ)
    numbers = pc.struct_field(parts, "since").cast(pa.int64())
    require_years(numbers)
    is_text = pc.and_(values.is_valid(), numbers.is_null())
    if pc.any(pc.and_(is_text, pc.invert(pc.starts_with(values, _TEXT)))).as_py():
        raise pa.ArrowInvalid("a value is neither a number of a unit nor a date")
    missing = pa.scalar(None, pa.string())
    converted = dates.convert(pc.if_else(is_text, pc.utf8_slice_codeunits(values, 1), missing))
    finer = pc.fill_null(pc.not_equal(pc.struct_field(parts, "original"), ""), False)
    if converted.lossy is not None:
        finer = pc.or_(finer, pc.fill_null(converted.lossy, False))
    return Converted(pc.coalesce(numbers.cast(UTC_MICROSECONDS), converted.values), finer)


def _originals(raw: pa.Array) -> Originals:
    is_text = pc.starts_with(raw, _TEXT)
    storage = pc.if_else(is_text, "text", "real")
    digits = pc.struct_field(pc.extract_regex(raw, _READ), "original")
    texts = pc.if_else(is_text, pc.utf8_slice_codeunits(raw, 1), digits)
    return Originals(pc.coalesce(storage, "null"), texts)


def shown(raw: pa.Array) -> pa.Array:
    """Raw values for people: dates as they are written, numbers as NULL."""
    missing = pa.scalar(None, pa.string())
    dates = pc.utf8_slice_codeunits(raw, 1)
    return pc.if_else(pc.starts_with(raw, _TEXT), dates, missing)
