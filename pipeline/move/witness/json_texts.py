"""Encode JSON as the text that PostgreSQL's jsonb has for it.

The form: keys ordered by length, then by bytes; numbers with all digits and without exponent.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

_LAYERS = 8
_MOST_DIGITS = 150_000


class Unjudged(Exception):
    """A JSON text that is nested too deeply for Python; the server has to encode it."""

    def __init__(self, text: bytes) -> None:
        """Keep the text, as UTF-8."""
        super().__init__("nested too deeply")
        self.text = text


class Real(bytes):
    """A JSON number that SQLite stores as a double; all digits with the same double are right."""

    __slots__ = ()


def encode(value: Any, *, unwrap: bool) -> bytes:
    """Encode a JSON text, or a number that SQLite stores in its place."""
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
