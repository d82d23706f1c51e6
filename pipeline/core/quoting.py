"""Names and texts, escaped for SQL and for a terminal; figures in units for people."""

import json
import re
import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control, format (directions, joiners), surrogate, line, paragraph."""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def exactly(name: str) -> str:
    """A column as an SQL expression for SQLite that compares exactly, whatever its collation."""
    return f"{quoted(name)} COLLATE BINARY"


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def printable(text: str) -> str:
    """A text with control characters and invisible characters escaped.

    A terminal then does not act on them. The escapes are those of JSON, so a JSON text of one line
    does not change.
    """
    if text.isprintable():
        return text
    return "".join(
        json.dumps(letter)[1:-1] if unicodedata.category(letter) in _INVISIBLE else letter
        for letter in text
    )


def bare(sql: str) -> str:
    """A statement without blanks and quotation marks, for comparison.

    SQLite keeps the text of a schema unchanged; Turso changes blanks and quotes more names.
    """
    return re.sub(r'[\s"]', "", sql)


def counted(count: int, noun: str) -> str:
    """A number of things, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """A number of bytes in a suitable unit."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    number = f"{count / 1024**power:,.1f}".removesuffix(".0")
    return f"{number} {units[power]}"


def share(part: float, whole: float, *, digits: int = 2) -> str:
    """A percentage; only zero is shown as 0 %, and only the whole as 100 %."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent, least = 100 * part / whole, 10.0**-digits
    if percent < least:
        return f"under {least:.{digits}f} %"
    return f"over {100 - least} %" if percent > 100 - least else f"{percent:.{digits}f} %"
