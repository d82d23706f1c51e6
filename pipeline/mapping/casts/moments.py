"""Dates and times: text in SQLite, timestamptz in PostgreSQL."""

import functools
from datetime import datetime, timezone
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mapping.casts.cast import (
    NAIVE_MICROSECONDS,
    UTC_MICROSECONDS,
    Cast,
    Converted,
    Rule,
    no_nul_rule,
)

_FAR = pa.scalar(datetime(2037, 1, 1), NAIVE_MICROSECONDS)
"""From this date on, Arrow applies only the standard time of a zone."""
YEAR_10000 = 253_402_300_800_000_000
_HOUR_ONLY = len("2025-08-06 03")
YEAR_ONE = -62_135_596_800_000_000
"""0001-01-01 in microseconds since 1970: the first moment that both databases support."""
_MOMENT = (
    r"^(?P<moment>\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)"
    r"(?P<more>\d*)(?: *(?P<zone>Z|[+-](?:0\d|1[0-4]):[0-5]\d))?$"
)


def moment_rules(c: str) -> tuple[Rule, Rule]:
    """The rules of a date as text: that it has no NUL character, and that it is a date."""
    accepted = " AND ".join(
        (
            f"{c} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'",
            f"{c} NOT GLOB '*[^-0-9T:.+Z ]*'",
            f"{c} GLOB '*[0-9Z]'",
            f"(length({c}) = 10 OR substr({c}, 11, 2) GLOB '[ T][0-9]')",
            f"substr({c}, 12, 2) < '24'",
            f"substr({c}, 1, 4) > '0000'",
            f"(substr({c}, 9, 2) < '29' OR date(julianday(substr({c}, 1, 10)))"
            f" = substr({c}, 1, 10))",
            # SQLite rejects fractions near the end of the year 9999, PostgreSQL does not.
            f"julianday(CASE WHEN instr({c}, '.') THEN substr({c}, 1, 19) || CASE WHEN"
            f" {c} GLOB '*[-+][0-9][0-9]:[0-9][0-9]' THEN substr({c}, -6) ELSE '' END"
            f" ELSE {c} END) IS NOT NULL",
            f"(instr({c}, '.') = 0 OR substr({c}, 20, 2) GLOB '.[0-9]')",
        )
    )
    return (
        no_nul_rule(c),
        Rule(
            "date",
            "is not a date",
            f"typeof({c}) = 'text' AND ({accepted}) IS NOT TRUE",
            cast=True,
        ),
    )


@functools.cache
def knows_zone(name: str) -> bool:
    """Whether Arrow and Python can convert dates of a time zone."""
    if name not in available_timezones():
        return False
    try:
        _instants(pa.array([datetime(2025, 1, 15, 12), datetime(2040, 1, 15, 12)]), name)
    except pa.ArrowInvalid:
        return False
    return True


def _instants(naive: pa.Array, zone: str) -> pa.Array:
    """Convert local times of a zone; an hour that is missing or ambiguous there raises."""
    if zone == "UTC":
        return naive.cast(UTC_MICROSECONDS)
    far = pc.fill_null(pc.greater_equal(naive, _FAR), False)
    near = pc.if_else(far, pa.scalar(None, naive.type), naive)
    found = pc.assume_timezone(near, zone).cast(UTC_MICROSECONDS)
    if not pc.any(far).as_py():
        return found
    beyond = pc.if_else(far, naive, pa.scalar(None, naive.type)).to_pylist()
    converted = pa.array(
        [_convert_far(moment, ZoneInfo(zone)) for moment in beyond], UTC_MICROSECONDS
    )
    return pc.coalesce(found, converted)


def _convert_far(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    local = moment.replace(tzinfo=zone)
    if local.utcoffset() != local.replace(fold=1).utcoffset():
        raise pa.ArrowInvalid(f"{moment} is missing or doubled in {zone.key}")
    try:
        return local.astimezone(timezone.utc)  # noqa: UP017
    except OverflowError as error:
        raise pa.ArrowInvalid(f"{moment} is too far away") from error


def _moment_convert(values: pa.Array, zone: str) -> Converted:
    try:
        naive = values.cast(NAIVE_MICROSECONDS)
    except pa.ArrowInvalid:
        found = _mixed_moments(values, zone)
    else:
        found = Converted(_instants(naive, zone))
        if pc.any(pc.equal(pc.binary_length(values), _HOUR_ONLY)).as_py():
            raise pa.ArrowInvalid("a text is a date with an hour only")
    require_years(found.values.cast(pa.int64()))
    return found


def require_years(since: pa.Array) -> None:
    """Require moments, in microseconds since 1970, that both databases support.

    Raises:
        pa.ArrowInvalid: a moment lies outside.
    """
    ends = pc.min_max(since).as_py()
    if ends["min"] is not None and (ends["min"] < YEAR_ONE or ends["max"] >= YEAR_10000):
        raise pa.ArrowInvalid("a date lies before the year 1 or after the year 9999")


def _mixed_moments(values: pa.Array, naive_zone: str) -> Converted:
    """Convert dates with offsets, or with more than six digits of a second."""
    parts = pc.extract_regex(values, _MOMENT)
    if parts.null_count != values.null_count:
        raise pa.ArrowInvalid("a text is not a date")
    naive = pc.struct_field(parts, "moment").cast(NAIVE_MICROSECONDS)
    moment = naive.cast(pa.int64())
    more = pc.struct_field(parts, "more")
    zone = pc.struct_field(parts, "zone")
    size = pc.binary_length(pc.struct_field(parts, "moment"))
    stray = pc.or_(
        pc.and_(pc.not_equal(more, ""), pc.not_equal(size, len("2025-08-06 03:07:13.716509"))),
        pc.and_(pc.not_equal(zone, ""), pc.less_equal(size, len("2025-08-06"))),
    )
    if pc.any(stray).as_py():
        raise pa.ArrowInvalid("a date has digits or an offset where none can be")
    up = pc.greater_equal(pc.utf8_slice_codeunits(more, 0, 1), "5").cast(pa.int64())
    offset = pc.if_else(pc.is_in(zone, value_set=pa.array(["", "Z"])), "+00:00", zone)
    minutes = pc.add(
        pc.multiply(pc.utf8_slice_codeunits(offset, 1, 3).cast(pa.int64()), 60),
        pc.utf8_slice_codeunits(offset, 4, 6).cast(pa.int64()),
    )
    signed = pc.if_else(
        pc.equal(pc.utf8_slice_codeunits(offset, 0, 1), "-"), pc.negate(minutes), minutes
    )
    instant = pc.subtract(pc.add(moment, up), pc.multiply(signed, 60_000_000))
    if naive_zone != "UTC":
        missing = pa.scalar(None, NAIVE_MICROSECONDS)
        local = _instants(pc.if_else(pc.equal(zone, ""), naive, missing), naive_zone)
        instant = pc.coalesce(pc.add(local.cast(pa.int64()), up), instant)
    return Converted(instant.cast(UTC_MICROSECONDS), pc.match_substring_regex(more, "[1-9]"))


def timestamptz(naive_zone: str) -> Cast:
    """The cast of timestamptz; dates without an offset are in ``naive_zone``."""
    return Cast(
        storage=("text",),
        sentinel="''",
        raw=pa.string(),
        rules=moment_rules,
        convert=lambda values: _moment_convert(values, naive_zone),
        target_form=lambda values: values.cast(UTC_MICROSECONDS),
    )
