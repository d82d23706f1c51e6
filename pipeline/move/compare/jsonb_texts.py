"""The text that PostgreSQL returns for a JSON text stored as jsonb, without asking it.

The form: members ordered by the length of their names in bytes, then by the bytes; of repeated
names the last value; one blank after colons and commas; characters outside ASCII not escaped;
numbers as ``numeric`` writes them, with all digits and without exponent. A wrong text costs only
bytes: its digest differs from the server's, and the column is read and compared.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

import pyarrow as pa

from pipeline.mapping.casts.json_texts import LAYERS

_BETWEEN = "\0"
"""Written between two values; jsonb cannot store it, so no value contains it."""
_MOST_DIGITS = 1_000
_MOST_ORDERS = 1_000


class _NeedsDigits(Exception):
    """A number whose digits Python would write differently."""


class _Digits(str):
    """A number, digit by digit."""

    __slots__ = ()


def as_stored(texts: pa.Array, *, unwrap: bool = False) -> pa.Array | None:
    """The texts as PostgreSQL returns them; None if this process cannot tell.

    Args:
        unwrap: strings that contain an object or an array were unwrapped.
    """
    distinct = texts.dictionary_encode()
    try:
        written = _all_written(distinct.dictionary.to_pylist(), unwrap=unwrap)
        found = None if written is None else pa.array(written, pa.string())
    except (ValueError, ArithmeticError, RecursionError):
        # Not JSON, or nothing that Python can read or UTF-8 can express.
        return None
    return None if found is None else found.take(distinct.indices)


def _all_written(texts: list[str], *, unwrap: bool) -> list[str] | None:
    fast, exact = _reader(float_=_plain_float, int_=None), _reader(float_=_Digits, int_=_Digits)
    values: list[Any] = []
    by_digits: dict[int, str] = {}
    for text in texts:
        try:
            value = fast(text)
            values += (_unwrapped(value, fast) if unwrap else value, _BETWEEN)
        except _NeedsDigits:
            value = exact(text)
            by_digits[len(values) // 2] = _write(_unwrapped(value, exact) if unwrap else value)
            values += (None, _BETWEEN)
    # One call for all values: a call for each would take longer than its work.
    written = _ENCODE(values[:-1])[1:-1].split(f", {_ENCODE(_BETWEEN)}, ") if values else []
    if len(written) != len(texts):
        return None
    for at, text in by_digits.items():
        written[at] = text
    return written


def _reader(*, float_: Callable[[str], Any], int_: Callable[[str], Any] | None) -> Any:
    """A function that reads a JSON text; members are in the order of jsonb."""
    decoder = json.JSONDecoder(
        object_hook=_Orders().ordered,
        parse_float=float_,
        parse_int=int_,
        parse_constant=_no_constant,
    )

    def read(text: str) -> Any:
        try:
            value, end = decoder.raw_decode(text)
        except ValueError:
            # Blanks before the value, unless it is no JSON.
            return decoder.decode(text)
        return value if end == len(text) else decoder.decode(text)

    return read


class _Orders:
    """The order of jsonb for sets of names; most objects of a column have the same names."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[str, ...] | None] = {}

    def ordered(self, members: dict[str, Any]) -> dict[str, Any]:
        names = tuple(members)
        try:
            order = self._known[names]
        except KeyError:
            order = self._find(names)
        return members if order is None else {name: members[name] for name in order}

    def _find(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        # The order of code points is that of UTF-8.
        order = tuple(sorted(names, key=lambda name: (len(name.encode()), name)))
        if len(self._known) >= _MOST_ORDERS:
            self._known.clear()
        self._known[names] = found = None if order == names else order
        return found


def _plain_float(digits: str) -> float:
    number = float(digits)
    if not number or repr(number) != digits or "e" in digits:
        raise _NeedsDigits
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unwrapped(whole: Any, read: Callable[[str], Any]) -> Any:
    """The object or array in a string that was encoded once or several times, if any."""
    inside = whole
    for _ in range(LAYERS):
        if not isinstance(inside, str) or isinstance(inside, _Digits):
            break
        try:
            inside = read(inside)
        except ValueError:
            return whole
    return inside if isinstance(inside, dict | list) else whole


_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _write(value: Any) -> str:
    """Write a value with the digits of its numbers."""
    if isinstance(value, _Digits):
        return _numeric(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_ENCODE(name)}: {_write(v)}' for name, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    return _ENCODE(value)


def _numeric(digits: str) -> str:
    number = Decimal(digits)
    if abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("a number of more digits than are worth writing")
    # Minus zero equals zero.
    return format(number if number else abs(number), "f")
