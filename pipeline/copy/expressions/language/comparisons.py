"""Comparisons: both sides get one type, as SQLite's affinities would do it."""

import re
from dataclasses import replace

from pipeline.copy.expressions.language import dates
from pipeline.copy.expressions.language.values import (
    NUMBERS,
    Untranslatable,
    Value,
    described,
    number,
    of_text,
    text,
)
from pipeline.declared.forms import EpochMoment, MixedText, WordBoolean

_ORDER = frozenset({"<", "<=", ">", ">="})
_NUMBER = re.compile(r"\s*([+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)\s*", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def compare(operator: str, left: Value, right: Value) -> Value:
    """A comparison; ``IS NOT DISTINCT FROM`` and ``IS DISTINCT FROM`` are operators, too."""
    collation = _collation(left, right)
    if operator in _ORDER and "mixed" in (left.family, right.family):
        raise Untranslatable("orders values of several storage classes")
    left, right = aligned(left, right)
    return Value(
        f"({in_order(left, operator, collation)} {operator} {folded(right, collation)})", "boolean"
    )


def in_order(value: Value, operator: str, collation: str | None) -> str:
    """The left side of a comparison; texts are ordered by their bytes."""
    sql = folded(value, collation)
    return f'{sql} COLLATE "C"' if operator in _ORDER and value.family == "text" else sql


def folded(value: Value, collation: str | None) -> str:
    """A text as a collation of SQLite compares it."""
    if value.family != "text" or collation in (None, "BINARY"):
        return value.sql
    if collation == "NOCASE":
        if value.literal is not None and value.literal.isascii():
            return of_text(value.literal.lower()).sql
        return f"lower({value.sql})"
    if collation == "RTRIM":
        return f"rtrim({value.sql}, ' ')"
    raise Untranslatable(f"uses the collation {collation}, which only the application has")


def _collation(left: Value, right: Value) -> str | None:
    if right.explicit and not left.explicit:
        return right.collation
    return left.collation or right.collation


def aligned(left: Value, right: Value) -> tuple[Value, Value]:
    """Both sides of a comparison in one type.

    Raises:
        Untranslatable: SQLite would compare values of different storage classes.
    """
    families = {left.family, right.family}
    if "null" in families or len(families) == 1 or families <= NUMBERS:
        return left, right
    for one, other, swapped in ((left, right, False), (right, left, True)):
        changed = _converted(one, other)
        if changed is not None:
            return (changed[1], changed[0]) if swapped else changed
    raise Untranslatable(f"compares {described(left)} with {described(right)}")


def _converted(one: Value, other: Value) -> tuple[Value, Value] | None:
    """One value and another one that is converted to its type; None if that is not its type."""
    match one.family:
        case "mixed" if isinstance(one.kind, MixedText) and other.literal is not None:
            return replace(one, family="text"), text(other)
        case "boolean":
            return _with_boolean(one, other)
        case "json_value" if other.family == "text":
            return text(one), other
        case "json_value" if other.family in NUMBERS | {"boolean"}:
            return number(one), number(other)
        case "words" if other.literal is not None and isinstance(one.kind, WordBoolean):
            return _with_words(one, other, one.kind)
        case "text" if one.stored and other.family == "integer" and other.literal is not None:
            return one, of_text(other.literal)
        case "integer" | "float" | "numeric" if one.stored and other.family == "text":
            return _with_number(one, other)
        case "uuid" if other.literal is not None and _UUID.fullmatch(other.literal):
            return one, replace(other, sql=f"{other.sql}::uuid", family="uuid")
        case "epoch" if other.family in NUMBERS and isinstance(one.kind, EpochMoment):
            return one, replace(other, sql=dates.of_number(other, one.kind), family="epoch")
        case "moment" | "naive_moment" | "date" | "time":
            return _with_moment(one, other)
    return None


def _with_boolean(one: Value, other: Value) -> tuple[Value, Value] | None:
    if other.family == "integer" and other.literal in ("0", "1"):
        word = "true" if other.literal == "1" else "false"
        return one, Value(word, "boolean")
    if other.family in NUMBERS:
        return number(one), other
    return None


def _with_words(one: Value, other: Value, kind: WordBoolean) -> tuple[Value, Value] | None:
    for word, value in ((kind.true, "true"), (kind.false, "false")):
        if other.literal == word:
            return one, Value(value, "words", kind=kind)
    return None


def _with_number(one: Value, other: Value) -> tuple[Value, Value] | None:
    found = _NUMBER.fullmatch(other.literal or "")
    if not found:
        return None
    return one, Value(found[1], "numeric", literal=found[1])


def _with_moment(one: Value, other: Value) -> tuple[Value, Value] | None:
    if other.moment is not None:
        return one, replace(other, sql=dates.now_as(one), family=one.family)
    if other.family != "text":
        return None
    if other.literal is not None:
        sql = dates.literal(other.literal, one)
        return one, replace(other, sql=sql, family=one.family)
    return (text(one), other) if one.family == "date" else None
