"""SQLite's functions of date and time."""

import re
from datetime import date, datetime, time

from pipeline.copy.expressions.language.values import MOMENTS, PER_SECOND, Untranslatable, Value
from pipeline.declared.forms import EpochMoment

_NOW = "now()"
_PLAIN = {"date": "%Y-%m-%d", "time": "%H:%M:%S", "datetime": "%Y-%m-%d %H:%M:%S"}
_CODES = {
    **{"Y": "YYYY", "m": "MM", "d": "DD", "H": "HH24", "M": "MI", "S": "SS", "f": "SS.MS"},
    **{"j": "DDD", "F": "YYYY-MM-DD", "T": "HH24:MI:SS", "R": "HH24:MI"},
}
_OFFSET = re.compile(r"(Z|[+-]\d\d:?\d\d)$", re.IGNORECASE)


def function(name: str, arguments: list[Value]) -> Value:
    """A call of ``date``, ``time``, ``datetime``, ``julianday``, ``unixepoch`` or ``strftime``."""
    pattern = _PLAIN.get(name, "")
    if name == "strftime":
        if not arguments or arguments[0].literal is None:
            raise Untranslatable("calls strftime with a format that is not a literal")
        pattern, arguments = arguments[0].literal, arguments[1:]
    moment, is_now = _utc(name, arguments)
    now = _NOW if is_now else None
    if name == "julianday":
        sql = f"(extract(julian FROM {moment}) - 0.5)::double precision"
        return Value(f"({sql})", "float", moment=now)
    if name == "unixepoch":
        return Value(f"floor(extract(epoch FROM {moment}))::bigint", "integer", moment=now)
    return Value(_formatted(pattern, moment), "text", moment=now)


def current(name: str) -> Value:
    """``CURRENT_TIMESTAMP``, ``CURRENT_DATE`` or ``CURRENT_TIME``."""
    return function(name, [])


def _utc(name: str, arguments: list[Value]) -> tuple[str, bool]:
    """A moment as a timestamp in UTC, and whether it is the current time."""
    if not arguments:
        return f"({_NOW} AT TIME ZONE 'UTC')", True
    if len(arguments) > 1:
        raise Untranslatable(f"calls {name} with modifiers")
    given = arguments[0]
    if given.literal is not None and given.literal.lower() == "now":
        return f"({_NOW} AT TIME ZONE 'UTC')", True
    if given.moment is not None:
        return f"({given.moment} AT TIME ZONE 'UTC')", True
    match given.family:
        case "moment" | "epoch":
            return f"({given.sql} AT TIME ZONE 'UTC')", False
        case "naive_moment":
            return given.sql, False
        case "date":
            return f"({given.sql})::timestamp", False
    raise Untranslatable(f"calls {name} with a value that is no timestamp in PostgreSQL")


def _formatted(pattern: str, moment: str) -> str:
    if pattern == "%s":
        return f"floor(extract(epoch FROM {moment}))::bigint::text"
    if pattern == "%w":
        return f"extract(dow FROM {moment})::integer::text"
    written = []
    for code, others in re.findall(r"%(.)|([^%]+)", pattern):
        if code and code not in _CODES:
            raise Untranslatable(f"formats a time with %{code}")
        if '"' in others or "'" in others or "\\" in others:
            raise Untranslatable("formats a time with quotation marks")
        plain = re.fullmatch(r"[-/:., ]*", others)
        written.append(_CODES[code] if code else others if plain else f'"{others}"')
    return f"to_char({moment}, '{''.join(written)}')"


def literal(letters: str, like: Value) -> str:
    """A text literal as a literal of the type of a column.

    Raises:
        Untranslatable: the text is no such moment.
    """
    name = {"moment": "timestamptz", "naive_moment": "timestamp", "epoch": "timestamptz"}.get(
        like.family, like.family
    )
    try:
        if like.family == "time":
            return f"'{time.fromisoformat(letters).isoformat()}'::time"
        if like.family == "date":
            return f"'{date.fromisoformat(letters).isoformat()}'::date"
        found = datetime.fromisoformat(letters)
    except ValueError:
        kind = "a date" if like.family == "date" else "a time"
        raise Untranslatable(f"uses the text '{letters}', which is not {kind}") from None
    zone = "" if _OFFSET.search(letters) or like.family == "naive_moment" else "+00:00"
    if like.family == "naive_moment" and found.tzinfo is not None:
        raise Untranslatable("compares a timestamp without time zone with one that has a zone")
    return f"'{found.isoformat(' ')}{zone}'::{name}"


def now_as(like: Value) -> str:
    """The current time in the type of a column."""
    match like.family:
        case "naive_moment":
            return f"({_NOW} AT TIME ZONE 'UTC')"
        case "date":
            return f"({_NOW} AT TIME ZONE 'UTC')::date"
        case "time":
            return f"({_NOW} AT TIME ZONE 'UTC')::time"
    return _NOW


def of_number(value: Value, kind: EpochMoment) -> str:
    """A number of the source as a timestamptz."""
    if kind.unit not in PER_SECOND:
        return f"to_timestamp(({value.sql} - 2440587.5) * 86400.0)"
    each = PER_SECOND[kind.unit]
    if each == 1:
        return f"to_timestamp({value.sql})"
    return f"to_timestamp({value.sql} / {each}.0)"


def is_moment(value: Value) -> bool:
    """Whether PostgreSQL stores a value as a timestamp or date."""
    return value.family in MOMENTS | {"epoch", "time"}
