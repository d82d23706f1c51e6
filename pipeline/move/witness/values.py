"""Encode a value of SQLite as the bytes that PostgreSQL has to store for it.

One function per declared type, in plain Python; ``stored.py`` gets the same bytes from the server.
Sources of the formats: PostgreSQL's binary send functions (integers, doubles, timestamps), the text
output of jsonb (keys ordered by length, then by bytes; numbers without exponent).
"""

import functools
import hashlib
import json
import math
import re
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared.forms import (
    DecimalText,
    EpochMoment,
    MixedBytes,
    MixedText,
    WordBoolean,
)

Encode = Callable[[Any], bytes]
"""Encodes a value from ``sqlite3`` (texts as bytes, never None) as the bytes to be hashed."""

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(2000, 1, 1)
_UNIX_2000 = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970."""
_JULIAN_2000 = 211_813_444_800_000
"""2000-01-01 in milliseconds of SQLite's julian days."""
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_PRECISE = Context(prec=100)
_LAYERS = 8
_MOST_DIGITS = 150_000
_SHOWN = 80
_MOMENT = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?)?"
    rb"(?: *(Z|([+-])(\d\d):(\d\d)))?"
)


class Unjudged(Exception):
    """A JSON text that is nested too deeply for Python; the server has to encode it."""

    def __init__(self, text: bytes) -> None:
        """Keep the text, as UTF-8."""
        super().__init__("nested too deeply")
        self.text = text


class Impossible(bytes):
    """The error message for a value that its type cannot store, instead of its bytes."""

    __slots__ = ()


class Real(bytes):
    """A JSON number that SQLite stores as a double; all digits with the same double are right."""

    __slots__ = ()


def encoder(kind: sa.types.TypeEngine[Any], *, zone: str, unwrap: bool) -> Encode:
    """The encoder for the values of a declared column.

    Args:
        zone: the time zone of timestamps that name none.
        unwrap: whether an object or array within a JSON string is unwrapped.

    Returns:
        A function that raises ``ValueError`` for values that the type cannot store, and
        ``Unjudged``.
    """
    named = None if zone == "UTC" else ZoneInfo(zone)
    match kind:
        case EpochMoment():
            return functools.partial(_epoch, unit=kind.unit, zone=named)
        case WordBoolean():
            return functools.partial(_word, true=kind.true, false=kind.false)
        case DecimalText():
            return functools.partial(_decimal, scale=kind.scale or 0)
        case MixedText() | MixedBytes():
            return _mixed_blob if isinstance(kind, MixedBytes) else _digits
        case JSONB():
            return functools.partial(_json, unwrap=unwrap)
        case sa.Boolean():
            return _boolean
        case sa.Integer():
            return _integer
        case sa.Double():
            return _double
        case sa.Numeric():
            return functools.partial(_numeric, scale=kind.scale or 0)
        case sa.String():
            return _text
        case sa.DateTime():
            return functools.partial(_moment, zone=named)
        case sa.LargeBinary():
            return _blob
    raise TypeError(f"{kind!r} has no form for digests")


def _integer(value: Any) -> bytes:
    if not isinstance(value, int):
        raise ValueError("not an integer")
    return struct.pack(">q", value)


def _boolean(value: Any) -> bytes:
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError("neither 0 nor 1")
    return bytes([value])


def _double(value: Any) -> bytes:
    if not isinstance(value, int | float):
        raise ValueError("not a number")
    # Minus zero equals zero.
    return struct.pack(">d", float(value) + 0.0)


def _numeric(value: Any, *, scale: int) -> bytes:
    if not isinstance(value, int | float):
        raise ValueError("not a number")
    # The shortest digits that identify the double are those that were written.
    scaled = Decimal(repr(value)).scaleb(scale, _PRECISE)
    return b"%d" % int(scaled.to_integral_value(ROUND_HALF_UP))


def _decimal(value: Any, *, scale: int) -> bytes:
    if not isinstance(value, bytes):
        return _numeric(value, scale=scale)
    if not _NUMBER.fullmatch(value):
        raise ValueError("not a decimal number")
    scaled = Decimal(value.decode()).scaleb(scale, _PRECISE)
    return b"%d" % int(scaled.to_integral_value(ROUND_HALF_UP))


def _word(value: Any, *, true: str, false: str) -> bytes:
    word = (value.decode() if isinstance(value, bytes) else str(value)).casefold()
    if word in (true.casefold(), "1", "t", "true"):
        return b"\1"
    if word in (false.casefold(), "0", "f", "false"):
        return b"\0"
    raise ValueError("neither of the two words")


def _digits(value: Any) -> bytes:
    """A text, or a number in the fewest digits that identify it, as SQLite writes them."""
    if isinstance(value, bytes):
        return value
    return (str(value) if isinstance(value, int) else _real_text(value)).encode()


def _real_text(value: float) -> str:
    if value in (math.inf, -math.inf):
        return "Inf" if value > 0 else "-Inf"
    for digits in (15, 17):
        text = f"{value:.{digits}g}"
        if float(text) == value:
            break
    mantissa, exponent, power = text.partition("e")
    if "." not in mantissa:
        mantissa += ".0"
    return mantissa + exponent + power


def _mixed_blob(value: Any) -> bytes:
    return _blob(_digits(value))


def _text(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("not a text")
    return value


def _blob(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("not a BLOB")
    return hashlib.md5(value, usedforsecurity=False).digest()


def _epoch(value: Any, *, unit: str, zone: ZoneInfo | None) -> bytes:
    if isinstance(value, bytes):
        if not _NUMBER.fullmatch(value):
            return _moment(value, zone=zone)
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


def _moment(value: Any, *, zone: ZoneInfo | None) -> bytes:
    found = _MOMENT.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        raise ValueError("not a timestamp")
    *parts, fraction, named, sign, hours, minutes = found.groups()
    local = datetime(*(int(part or 0) for part in parts))  # type: ignore[arg-type]
    digits = (fraction or b"").ljust(7, b"0")
    since = (local - _EPOCH) // _MICROSECOND + int(digits[:6]) + (digits[6:7] >= b"5")
    if sign:
        offset = (int(hours) * 60 + int(minutes)) * 60_000_000
        since -= offset if sign == b"+" else -offset
    elif named is None and zone is not None:
        since -= (local.replace(tzinfo=zone).utcoffset() or timedelta()) // _MICROSECOND
    return struct.pack(">q", since)


def _json(value: Any, *, unwrap: bool) -> bytes:
    match value:
        case bytes():
            text = value.decode()
        case float():
            return Real(_number(repr(value)).encode())
        case int():
            text = repr(value)
        case _:
            raise ValueError("not JSON")
    layers = [text]
    try:
        whole = _DECODER.decode(text)
        return _written(_unwrapped(whole, layers) if unwrap else whole).encode()
    except RecursionError:
        raise Unjudged(layers[-1].encode()) from None


def _unwrapped(whole: Any, layers: list[str]) -> Any:
    """The object or array within a JSON string, if any; each text is added to ``layers``."""
    inside = whole
    for _ in range(_LAYERS):
        if not isinstance(inside, str) or isinstance(inside, _Digits):
            break
        try:
            layers.append(inside)
            inside = _DECODER.decode(inside)
            _ = inside.encode() if isinstance(inside, str) else None
        except ValueError:
            del layers[1:]
            return whole
    if isinstance(inside, dict | list):
        return inside
    del layers[1:]
    return whole


class _Digits(str):
    """A number of a JSON text, digit by digit."""

    __slots__ = ()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits, parse_constant=_no_constant)
_STRING = json.JSONEncoder(ensure_ascii=False).encode


def _written(value: Any) -> str:
    """The text form of jsonb for a JSON value."""
    match value:
        case _Digits():
            return _number(value)
        case str():
            return _STRING(value)
        case dict():
            members = sorted(value.items(), key=lambda each: _order(each[0]))
            return "{" + ", ".join(f"{_STRING(k)}: {_written(v)}" for k, v in members) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
        case _:
            return "null" if value is None else "true" if value else "false"


def _order(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded


def _number(digits: str) -> str:
    try:
        number = Decimal(digits)
    except InvalidOperation:
        raise ValueError("not a number that numeric can store") from None
    if not number:
        # A zero only keeps its digits after the decimal point.
        places = max(-int(number.as_tuple().exponent), 0)
        return "0" + ("." + "0" * min(places, _MOST_DIGITS) if places else "")
    if abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("more digits than numeric can store")
    return format(number, "f")


def shown(kind: sa.types.TypeEngine[Any], encoded: bytes | None) -> Any:
    """An encoded value for messages."""
    match kind:
        case _ if encoded is None:
            return None
        case _ if isinstance(encoded, Impossible):
            return _short(encoded.decode("utf-8", "replace"))
        case sa.Boolean():
            return encoded != b"\0"
        case sa.Integer():
            return struct.unpack(">q", encoded)[0]
        case sa.Double():
            return struct.unpack(">d", encoded)[0]
        case sa.Numeric():
            return str(Decimal(encoded.decode()).scaleb(-(kind.scale or 0), _PRECISE))
        case sa.DateTime():
            (since,) = struct.unpack(">q", encoded)
            return _shown_moment(since)
        case sa.LargeBinary():
            return encoded.hex()
    return _short(encoded.decode("utf-8", "replace"))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _shown_moment(since: int) -> str:
    try:
        return f"{_EPOCH + since * _MICROSECOND} UTC"
    except OverflowError:
        return "infinity"
