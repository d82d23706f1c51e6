"""Dates, times of day, and moments without a time zone: text in SQLite."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mapping.casts.cast import NAIVE_MICROSECONDS, Cast, Converted, Rule, no_nul_rule
from pipeline.mapping.casts.moments import moment_rules, timestamptz

_ZONED = r"Z$|[+-]\d\d:\d\d$"
_DAY_ONE = pa.scalar(-719_162, pa.int32())
"""0001-01-01 in days since 1970."""
_TIME = (
    r"^(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d)"
    r"(?::(?P<seconds>[0-5]\d)(?:\.(?P<digits>\d{1,6})(?P<more>\d*))?)?$"
)
_DAY = 86_400_000_000
_TO_MIDNIGHT = "is 24:00:00 when it is rounded to microseconds"


def _date_rules(c: str) -> tuple[Rule, ...]:
    accepted = (
        f"{c} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]' AND substr({c}, 1, 4) > '0000'"
        f" AND date(julianday({c})) = substr({c}, 1, 10)"
    )
    violated = f"typeof({c}) = 'text' AND ({accepted}) IS NOT TRUE"
    return (
        no_nul_rule(c),
        Rule("date", "is not a date in the form YYYY-MM-DD", violated, cast=True),
    )


def _date_convert(values: pa.Array) -> Converted:
    days = values.cast(pa.date32())
    if pc.any(pc.less(days.cast(pa.int32()), _DAY_ONE)).as_py():
        raise pa.ArrowInvalid("a date lies before the year 1")
    return Converted(days)


DATE = Cast(
    storage=("text",),
    sentinel="''",
    raw=pa.string(),
    rules=_date_rules,
    convert=_date_convert,
)


def _time_rules(c: str) -> tuple[Rule, ...]:
    minutes = "[0-2][0-9]:[0-5][0-9]"
    fraction = f"{c} GLOB '{minutes}:[0-5][0-9].[0-9]*' AND substr({c}, 10) NOT GLOB '*[^0-9]*'"
    short = f"{c} GLOB '{minutes}' OR {c} GLOB '{minutes}:[0-5][0-9]'"
    accepted = f"substr({c}, 1, 2) < '24' AND ({short} OR {fraction})"
    is_text = f"typeof({c}) = 'text'"
    return (
        no_nul_rule(c),
        Rule(
            "time",
            "is not a time in the form HH:MM, HH:MM:SS or HH:MM:SS.ffffff",
            f"{is_text} AND ({accepted}) IS NOT TRUE",
            cast=True,
        ),
        Rule("range", _TO_MIDNIGHT, f"{is_text} AND {c} GLOB '23:59:59.999999[5-9]*'", cast=True),
    )


def _time_convert(values: pa.Array) -> Converted:
    moments = pc.binary_join_element_wise("1970-01-01", values, " ")
    try:
        since = moments.cast(NAIVE_MICROSECONDS).cast(pa.int64())
    except pa.ArrowInvalid:
        return _convert_fractions(values)
    if pc.any(pc.less(pc.binary_length(values), len("HH:MM"))).as_py():
        raise pa.ArrowInvalid("a text is not a time")
    return Converted(since.cast(pa.time64("us")))


def _convert_fractions(values: pa.Array) -> Converted:
    """Convert times, some of which have more than six digits of a second."""
    parts = pc.extract_regex(values, _TIME)
    if parts.null_count != values.null_count:
        raise pa.ArrowInvalid("a text is not a time")
    more = pc.struct_field(parts, "more")
    up = pc.greater_equal(pc.utf8_slice_codeunits(more, 0, 1), "5").cast(pa.int64())
    total = up
    for name, unit in (("hours", 3_600_000_000), ("minutes", 60_000_000), ("seconds", 1_000_000)):
        total = pc.add(total, pc.multiply(_whole(pc.struct_field(parts, name)), unit))
    digits = pc.utf8_rpad(pc.struct_field(parts, "digits"), 6, "0")
    total = pc.add(total, _whole(digits))
    if (pc.max(total).as_py() or 0) >= _DAY:
        raise pa.ArrowInvalid(f"a time {_TO_MIDNIGHT}")
    lossy = pc.match_substring_regex(more, "[1-9]")
    return Converted(total.cast(pa.time64("us")), lossy if pc.any(lossy).as_py() else None)


def _whole(digits: pa.Array) -> pa.Array:
    """Numbers from digits; no digits are zero."""
    return pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64())


TIME = Cast(
    storage=("text",),
    sentinel="''",
    raw=pa.string(),
    rules=_time_rules,
    convert=_time_convert,
)

_IN_UTC = timestamptz("UTC")


def _timestamp_rules(c: str) -> tuple[Rule, ...]:
    zoned = f"{c} GLOB '*Z' OR {c} GLOB '*[-+][0-9][0-9]:[0-9][0-9]'"
    violated = f"typeof({c}) = 'text' AND ({zoned})"
    return (
        *moment_rules(c),
        Rule("zone", "names a time zone, which the column does not keep", violated, cast=True),
    )


def _timestamp_convert(values: pa.Array) -> Converted:
    if pc.any(pc.match_substring_regex(values, _ZONED)).as_py():
        raise pa.ArrowInvalid("a text names a time zone")
    found = _IN_UTC.convert(values)
    return Converted(found.values.cast(NAIVE_MICROSECONDS), found.lossy)


TIMESTAMP = Cast(
    storage=("text",),
    sentinel="''",
    raw=pa.string(),
    rules=_timestamp_rules,
    convert=_timestamp_convert,
    target_form=lambda values: values.cast(NAIVE_MICROSECONDS),
)
