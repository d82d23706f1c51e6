"""Encode a value of SQLite as the bytes that PostgreSQL has to store for it.

One function per declared type, in plain Python; ``stored.py`` gets the same bytes from the server.
Sources of the formats: PostgreSQL's binary send functions (integers, doubles, timestamps, dates)
and its text output (jsonb, UUIDs, numerics that keep every digit).
"""

import functools
import hashlib
import math
import re
import struct
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any
from uuid import UUID
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
from pipeline.declared.kinds import is_single, is_wide
from pipeline.move.witness import json_texts, moments

Encode = Callable[[Any], bytes]
"""Encodes a value from ``sqlite3`` (texts as bytes, never None) as the bytes to be hashed."""

_PRECISE = Context(prec=100)
_WIDE = Context(prec=200_000)
_UUID = re.compile(
    rb"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}"
)
_UUID_BYTES = 16
_SHOWN = 80


class Impossible(bytes):
    """The error message for a value that its type cannot store, instead of its bytes."""

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
            return functools.partial(moments.epoch, unit=kind.unit, zone=named)
        case WordBoolean():
            return functools.partial(_word, true=kind.true, false=kind.false)
        case sa.Numeric() if is_wide(kind):
            return functools.partial(
                _wide, scale=None if kind.precision is None else kind.scale or 0
            )
        case DecimalText():
            return functools.partial(_decimal, scale=kind.scale or 0)
        case MixedText() | MixedBytes():
            return _mixed_blob if isinstance(kind, MixedBytes) else _digits
        case JSONB():
            return functools.partial(json_texts.encode, unwrap=unwrap)
        case sa.Boolean():
            return _boolean
        case sa.Integer():
            return _integer
        case sa.Float():
            return _single if is_single(kind) else _double
        case sa.Numeric():
            return functools.partial(_numeric, scale=kind.scale or 0)
        case sa.Enum():
            return functools.partial(_among, words=frozenset(kind.enums))
        case sa.String():
            return _text
        case sa.Uuid():
            return _uuid
        case sa.DateTime():
            zone_ = named if kind.timezone else None
            return functools.partial(moments.moment, zone=zone_, naive=not kind.timezone)
        case sa.Date():
            return moments.day
        case sa.Time():
            return moments.time_of_day
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


def _single(value: Any) -> bytes:
    if not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        (rounded,) = struct.unpack(">f", struct.pack(">f", value))
    except OverflowError:
        raise ValueError("too large for a real") from None
    # A tiny number is rounded to zero, with a sign.
    return struct.pack(">f", rounded + 0.0)


def _numeric(value: Any, *, scale: int) -> bytes:
    if not isinstance(value, int | float):
        raise ValueError("not a number")
    # The shortest digits that identify the double are those that were written.
    scaled = Decimal(repr(value)).scaleb(scale, _PRECISE)
    return b"%d" % int(scaled.to_integral_value(ROUND_HALF_UP))


def _decimal(value: Any, *, scale: int) -> bytes:
    if not isinstance(value, bytes):
        return _numeric(value, scale=scale)
    if not moments.NUMBER.fullmatch(value):
        raise ValueError("not a decimal number")
    scaled = Decimal(value.decode()).scaleb(scale, _PRECISE)
    return b"%d" % int(scaled.to_integral_value(ROUND_HALF_UP))


def _wide(value: Any, *, scale: int | None) -> bytes:
    """A decimal number as PostgreSQL writes it."""
    if isinstance(value, bytes):
        if not moments.NUMBER.fullmatch(value):
            raise ValueError("not a decimal number")
        number = Decimal(value.decode())
    elif isinstance(value, int):
        number = Decimal(value)
    elif isinstance(value, float) and math.isfinite(value):
        number = Decimal(repr(value))
        # A whole number has no point, whatever Python writes.
        number = number.quantize(Decimal(1), context=_WIDE) if value.is_integer() else number
    else:
        raise ValueError("not a finite number")
    if scale is not None:
        unit = Decimal(1).scaleb(-scale, _WIDE)
        number = number.quantize(unit, rounding=ROUND_HALF_UP, context=_WIDE)
    return format(number if number else number.copy_abs(), "f").encode()


def _uuid(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("not a UUID")
    # No text of a UUID is as short as its bytes.
    if len(value) == _UUID_BYTES:
        return str(UUID(bytes=value)).encode()
    if not _UUID.fullmatch(value):
        raise ValueError("not a UUID")
    return str(UUID(value.decode())).encode()


def _among(value: Any, *, words: frozenset[str]) -> bytes:
    if not isinstance(value, bytes) or value.decode() not in words:
        raise ValueError("none of the words")
    return value


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
    for digits in (15, 16, 17):
        # SQLite writes zero without a sign.
        text = f"{value + 0.0:.{digits}g}"
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
        case sa.Float():
            return struct.unpack(">f" if is_single(kind) else ">d", encoded)[0]
        case sa.Numeric() if is_wide(kind):
            return _short(encoded.decode())
        case sa.Numeric():
            return str(Decimal(encoded.decode()).scaleb(-(kind.scale or 0), _PRECISE))
        case sa.DateTime():
            return moments.shown_moment(encoded, naive=not kind.timezone)
        case sa.Date():
            return moments.shown_day(encoded)
        case sa.Time():
            return moments.shown_time(encoded)
        case sa.LargeBinary():
            return encoded.hex()
    return _short(encoded.decode("utf-8", "replace"))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
