"""Forms of values: of texts such as dates, and of numbers that may be moments.

A form is narrow: a value that has it loses nothing by the conversion to the type of the form.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Literal, NoReturn

from pipeline.copy.census.declared import Declared
from pipeline.declared.forms import UNITS
from pipeline.sqlite.structure.model import Column

Form = Literal[
    "date",
    "naive",
    "zoned",
    "time",
    "uuid",
    "bare_uuid",
    "decimal",
    "number",
    "json",
    "words",
    "exact",
    "positive",
    "seconds",
    "milliseconds",
    "microseconds",
    "julian_days",
]
"""The names of forms.

``exact`` is a number that the declared DECIMAL(p,s) holds. ``number`` is a text that SQLite stores
as a number in some columns, if it is no ``decimal``. ``bare_uuid`` has no hyphens. ``naive`` is a
day and a time without a zone.
"""

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = rf"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_OFFSET = r"(?:0[0-9]|1[0-4]):[0-5][0-9]"
_MOMENT = rf"{_DATE}[ T]{_TIME} ?"
# An offset may move a moment out of the years 1 to 9999, which both databases support.
_ZONED = rf"{_MOMENT}Z|(?:{_MOMENT}\+{_OFFSET})|(?:{_MOMENT}-{_OFFSET})"
PATTERNS: dict[Form, str] = {
    "naive": rf"{_DATE}[ T]{_TIME}",
    "date": _DATE,
    "zoned": _ZONED,
    "time": _TIME,
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    # Version and variant tell it from an MD5 hash.
    "bare_uuid": r"[0-9a-f]{12}[1-8][0-9a-f]{3}[89ab][0-9a-f]{15}",
    "decimal": r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?",
    "number": r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t\n\v\f\r]*",
}
"""Patterns of whole texts, in the order in which they are tried. They mean the same to RE2 and to
Python."""
REFUSED: dict[Form, str] = {
    "zoned": r"(?:0001-01-01.*\+|9999-12-31.*-)[0-9]{2}:[0-9]{2}",
    "decimal": r"-0(?:\.0+)?",
}
"""Patterns of texts without the form although its pattern matches."""

SAMPLED: tuple[Form, ...] = ("date", "naive", "zoned", "uuid", "bare_uuid", "json")

_MOMENT_NAME = re.compile(
    r"(?:.*_)?(?:at|on|date|time|timestamp|datetime|ts|created|updated|modified|deleted|expires|"
    r"expiry|expiration|mtime|ctime|atime|since|until|epoch|login|seen|activity|accessed)(?:_.*)?",
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def names_moment(name: str) -> bool:
    """Whether the name of a column suggests moments, such as ``created_at`` or ``updatedAt``."""
    return _MOMENT_NAME.fullmatch(_CAMEL.sub("_", name).lower()) is not None


def asked(column: Column, declared: Declared) -> frozenset[Form]:
    """The forms that the type or the name of a column asks for."""
    found: set[Form] = set()
    match declared.family:
        case "date" | "moment":
            found |= {"date", "naive", "zoned"}
        case "time" | "uuid" | "json":
            found.add(declared.family)
        case "boolean":
            found.add("words")
        case "decimal":
            found |= {"decimal", "exact"}
        case "numeric":
            found.add("decimal")
        case "unknown" | "bytes":
            found |= {"number", "decimal"}
    if declared.family in ("date", "moment", "time") or names_moment(column.name):
        found |= {"positive", *UNITS}
    return frozenset(found)


def sampled(texts: Iterable[str]) -> frozenset[Form]:
    """Forms that all of these texts have; JSON counts only as an object or an array."""
    seen = tuple(texts)
    if not seen:
        return frozenset()
    return frozenset(form for form in SAMPLED if all(_has(form, text) for text in seen))


def _has(form: Form, text: str) -> bool:
    if form == "json":
        return text.lstrip().startswith(("{", "[")) and fits_jsonb(text)
    refused = REFUSED.get(form)
    return _whole(PATTERNS[form], text) and not (refused and _whole(refused, text))


def _whole(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_BAD_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_MOST_EXPONENT, _MOST_DIGITS = 999, 1000


class _RefusedError(ValueError):
    """A JSON text that jsonb refuses or changes."""


def fits_jsonb(text: str) -> bool:
    """Whether jsonb accepts a text and loses nothing of it but blanks and the order of names."""
    if "\\u" in text:
        escapes = _PAIR.sub("", text.replace("\\\\", ""))
        if _BAD_ESCAPE.search(escapes):
            return False
    try:
        _JSON.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _members(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        raise _RefusedError("a name is repeated")


def _number(digits: str) -> None:
    exponent = digits.lower().partition("e")[2]
    if len(digits) > _MOST_DIGITS or (exponent and abs(int(exponent)) > _MOST_EXPONENT):
        raise _RefusedError("a number is too long")


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not JSON")


_JSON = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_number, parse_int=_number, parse_constant=_constant
)
