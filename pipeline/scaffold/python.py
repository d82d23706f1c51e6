"""Python source text: types, texts and calls."""

import keyword
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared.forms import DecimalText, EpochMoment, MixedBytes, MixedText, WordBoolean
from pipeline.declared.kinds import is_single

WIDTH = 100
_MISREAD = re.compile(r"(?<![:\w]):(?=\w)|\\:")
"""A colon that ``sa.text`` does not leave alone."""
_TAKEN = frozenset({"sa", "conv", "metadata", "access", "JSONB", "MIGRATION"})


def type_text(kind: "sa.types.TypeEngine[Any]") -> str:
    """A type as an expression, with the names that ``module`` imports."""
    return _form(kind) or _number(kind) or _other(kind)


def _form(kind: "sa.types.TypeEngine[Any]") -> str:
    match kind:
        case EpochMoment():
            return f"EpochMoment({string(kind.unit)})"
        case WordBoolean():
            return f"WordBoolean({string(kind.words)})"
        case DecimalText():
            return _sized("DecimalText", kind) + ("()" if kind.precision is None else "")
        case MixedText():
            return f"MixedText({'numeric=True' if kind.numeric else ''})"
        case MixedBytes():
            return "MixedBytes()"
    return ""


def _number(kind: "sa.types.TypeEngine[Any]") -> str:
    match kind:
        case sa.SmallInteger():
            return "sa.SmallInteger"
        case sa.BigInteger():
            return "sa.BigInteger"
        case sa.Integer():
            return "sa.Integer"
        case sa.Float():
            return "sa.REAL" if is_single(kind) else "sa.Double"
        case sa.Numeric():
            return _sized("sa.Numeric", kind)
    return ""


def _sized(name: str, kind: "sa.Numeric[Any]") -> str:
    if kind.precision is None:
        return name
    scale = "" if kind.scale is None else f", {kind.scale}"
    return f"{name}({kind.precision}{scale})"


def _other(kind: "sa.types.TypeEngine[Any]") -> str:
    match kind:
        case sa.DateTime():
            return "sa.DateTime(timezone=True)" if kind.timezone else "sa.DateTime"
        case JSONB():
            return "JSONB"
        case sa.Text():
            return "sa.Text"
        case sa.String():
            return "sa.String" if kind.length is None else f"sa.String({kind.length})"
    simple = (sa.Boolean, sa.Date, sa.Time, sa.Uuid, sa.LargeBinary)
    found = next((each for each in simple if isinstance(kind, each)), None)
    if found is None:
        raise TypeError(f"{kind!r} has no text")
    return f"sa.{found.__name__}"


def string(text: str) -> str:
    """A text as a literal, in double quotes if that needs no escapes."""
    shown = repr(text)
    if shown.startswith("'") and '"' not in text:
        return f'"{shown[1:-1]}"'
    return shown


def sql_string(sql: str) -> str:
    """SQL as a literal for ``sa.text``.

    It takes a name after a colon for a parameter, and removes a backslash before a colon. Both
    depend on the next colon, so either all colons are escaped or none.
    """
    return string(sql.replace(":", r"\:") if _MISREAD.search(sql) else sql)


def variable(name: str, taken: set[str]) -> str:
    """A free name for a variable, similar to another name."""
    wanted = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "table"
    if wanted[0].isdigit() or keyword.iskeyword(wanted) or wanted in _TAKEN:
        wanted = f"table_{wanted}"
    found, number = wanted, 1
    while found in taken:
        number += 1
        found = f"{wanted}_{number}"
    taken.add(found)
    return found


def call(name: str, arguments: Sequence[str], *, indent: int = 0) -> str:
    """A call on one line, or with a line for each argument if it is too long."""
    blanks = " " * indent
    line = f"{blanks}{name}({', '.join(arguments)})"
    if len(line) < WIDTH and "\n" not in line:
        return line
    inner = "".join(f"{blanks}    {argument},\n" for argument in arguments)
    return f"{blanks}{name}(\n{inner}{blanks})"


def comment(text: str, *, indent: int = 0) -> str:
    """A comment, wrapped; letters that end a line or cannot be seen are escaped."""
    words = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).split(" ")
    lines, line = [], f"{' ' * indent}#"
    for word in words:
        if len(line) + len(word) >= WIDTH and line.strip() != "#":
            lines.append(line)
            line = f"{' ' * indent}#"
        line += f" {word}"
    return "\n".join([*lines, line])
