"""What a declared type of SQLite means; SQLite itself accepts any name."""

import functools
import re
from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "smallint",
    "integer",
    "boolean",
    "real",
    "decimal",
    "numeric",
    "string",
    "text",
    "bytes",
    "json",
    "uuid",
    "date",
    "moment",
    "time",
    "unknown",
]
TEXTUAL: frozenset[Family] = frozenset({"string", "text"})

_PARTS = re.compile(r"([^(]*)(?:\(\s*(\d+)?[^,)]*(?:,\s*(\d+))?[^)]*\))?.*", re.DOTALL)
_MOST_CHARACTERS = 10_485_760
"""The largest n of varchar(n)."""
_MOST_DIGITS = 38
"""The largest precision of a numeric whose values are moved as Arrow decimals."""
_NAMES: tuple[tuple[str, Family], ...] = (
    (r"BOOL|BOOLEAN", "boolean"),
    (r"JSONB?", "json"),
    (r"UUID|GUID|UNIQUEIDENTIFIER", "uuid"),
    (r"(SMALL)?DATETIME.*|TIMESTAMP.*", "moment"),
    (r"DATE", "date"),
    (r"TIME( WITHOUT TIME ZONE)?", "time"),
    (r"(UNSIGNED )?(SMALLINT|TINYINT|INT2|SMALLSERIAL)\b.*", "smallint"),
    (r"(.* )?(REAL|FLOA|DOUB).*", "real"),
    (r"(DECIMAL|NUMERIC|DEC|NUMBER|FIXED)( UNSIGNED)?", "decimal"),
    (r"(SMALL)?MONEY|CURRENCY|DECIMALTEXT", "numeric"),
    (r"(BIG)?SERIAL|(?!INTERVAL|.*POINT).*INT.*", "integer"),
    (r".*CHAR.*", "string"),
    (r".*(TEXT|CLOB).*", "text"),
    (r".*BLOB.*|(VAR)?BINARY|BYTEA|IMAGE", "bytes"),
)
"""Patterns of whole names in upper case; the first that matches counts."""
_PATTERNS = tuple((re.compile(pattern), family) for pattern, family in _NAMES)


@dataclass(frozen=True)
class Declared:
    """The meaning of a declared type.

    Attributes:
        family: ``unknown`` if the name says nothing of what a column holds.
        length: of a string.
        precision: of a decimal.
        scale: of a decimal.
        zoned: a moment with a time zone.
    """

    family: Family
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    zoned: bool = False


@functools.lru_cache(maxsize=1024)
def meaning(declared: str) -> Declared:
    """The meaning of a declared type."""
    matched = _PARTS.match(declared.upper())
    base, first, second = matched.groups() if matched else ("", None, None)
    name = " ".join(base.strip(" \t\r\n\"'`[]").split())
    found = (family for each, family in _PATTERNS if each.fullmatch(name))
    family: Family = next(found, "unknown")
    if family == "string":
        length = int(first) if first else 0
        return Declared("string", length) if 0 < length <= _MOST_CHARACTERS else Declared("text")
    if family == "decimal":
        precision, scale = int(first or 0), int(second or 0)
        if 0 < precision <= _MOST_DIGITS and scale <= precision and not _is_negative(declared):
            return Declared("decimal", precision=precision, scale=scale)
        return Declared("numeric")
    if family == "moment":
        return Declared("moment", zoned=name == "TIMESTAMPTZ" or _is_zoned(declared))
    return Declared(family)


def _is_negative(declared: str) -> bool:
    return "-" in declared


def _is_zoned(declared: str) -> bool:
    return "WITH TIME ZONE" in " ".join(declared.upper().split())
