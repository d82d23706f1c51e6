"""The type that takes all values of a column, by its declared type and by what it holds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.census.declared import TEXTUAL, Declared, Family
from pipeline.copy.census.facts import ColumnFacts
from pipeline.declared.forms import MixedBytes, MixedText, WordBoolean
from pipeline.mapping.casts.cast import affinity
from pipeline.mapping.plausible import WORDS

Kind = sa.types.TypeEngine[Any]
Choice = Kind | None

_EXACT = 2**53
"""A double represents every integer up to this one."""
_SMALL = 2**15
_NUMBERS: frozenset[Family] = frozenset({"smallint", "integer", "decimal", "numeric", "real"})


@dataclass(frozen=True)
class Chosen:
    """A type.

    Attributes:
        as_declared: it is a type that the declared type asks for.
    """

    kind: Kind
    as_declared: bool


def choose(declared: Declared, facts: ColumnFacts) -> Chosen:
    """The type that the declared type asks for if it takes all values, else one by the values."""
    rule = _BY_FAMILY.get(declared.family)
    kind = rule(declared, facts) if rule else None
    return Chosen(by_values(facts) if kind is None else kind, as_declared=kind is not None)


def by_values(facts: ColumnFacts) -> Kind:
    """The type of values whose column is not declared; a text if there are none."""
    if facts.blobs or facts.unstorable:
        return sa.LargeBinary()
    if facts.texts or not facts.values:
        return sa.Text()
    return _integer(facts) or _real(facts) or sa.Text()


def fitted(kind: Kind, declared: str, facts: ColumnFacts) -> Kind:
    """A text or bytea in the form that takes values of several storage classes, where needed."""
    match kind:
        case sa.Text() if facts.integers or facts.reals:
            return MixedText(numeric=_follows_from_text(declared, facts))
        case sa.Text():
            return sa.Text()
        case sa.LargeBinary():
            return sa.LargeBinary() if facts.blobs == facts.values else MixedBytes()
        case WordBoolean() if facts.integers == facts.values:
            return sa.Boolean()
    return kind


def _follows_from_text(declared: str, facts: ColumnFacts) -> bool:
    """Whether the storage class of each value follows from its text."""
    if facts.infinite:
        return False
    if affinity(declared) in ("INTEGER", "REAL", "NUMERIC"):
        # SQLite stores texts that look like numbers as numbers.
        return True
    return "number" in facts.forms and not facts.count("decimal", "number")


def joined(declared: Iterable[Declared]) -> Declared:
    """The meaning of several declared types whose columns need one type."""
    found = set(declared)
    known = {each for each in found if each.family != "unknown"} or found
    if len(known) == 1:
        return next(iter(known))
    families = {each.family for each in known}
    if families & TEXTUAL:
        lengths = {each.length or 0 for each in known}
        is_string = families == {"string"}
        return Declared("string", max(lengths)) if is_string else Declared("text")
    if families <= _NUMBERS:
        return Declared("integer")
    if families <= {"date", "moment"}:
        return Declared("moment", zoned=all(each.zoned for each in known))
    return Declared("unknown")


def _integer(facts: ColumnFacts) -> Choice:
    return sa.BigInteger() if facts.integers == facts.values else None


def _real(facts: ColumnFacts) -> Choice:
    if facts.integers + facts.reals < facts.values:
        return None
    return sa.Double() if facts.within(-_EXACT, _EXACT) else _numeric(facts)


def _numeric(facts: ColumnFacts) -> Choice:
    numbers = facts.integers + facts.reals + facts.count("decimal")
    return sa.Numeric() if numbers == facts.values and not facts.infinite else None


def _small(_: Declared, facts: ColumnFacts) -> Choice:
    fits = facts.integers == facts.values and facts.within(-_SMALL, _SMALL - 1)
    return sa.SmallInteger() if fits else _whole(_, facts)


def _whole(_: Declared, facts: ColumnFacts) -> Choice:
    return _integer(facts) or _real(facts)


def _boolean(_: Declared, facts: ColumnFacts) -> Choice:
    if facts.is_binary:
        return sa.Boolean()
    words = facts.words or ()
    lower = {word.lower() for word in words}
    if facts.texts < facts.values or not words or len(lower) < len(words):
        return None
    form = next((each for each in WORDS if lower <= {*each.split("/")}), None)
    return None if form is None else WordBoolean(form)


def _decimal(declared: Declared, facts: ColumnFacts) -> Choice:
    if facts.count("exact") == facts.values:
        return sa.Numeric(declared.precision, declared.scale)
    return _numeric(facts)


def _string(declared: Declared, facts: ColumnFacts) -> Choice:
    fits = facts.texts == facts.values and facts.longest <= (declared.length or 0)
    return sa.String(declared.length) if fits else None


def _text(_: Declared, facts: ColumnFacts) -> Choice:
    return None if facts.blobs or facts.unstorable else sa.Text()


def _bytes(_: Declared, facts: ColumnFacts) -> Choice:
    return sa.LargeBinary() if facts.blobs == facts.values else None


def _json(_: Declared, facts: ColumnFacts) -> Choice:
    fits = facts.count("json") + facts.integers + facts.reals == facts.values
    return JSONB() if fits and not facts.infinite else None


def _uuid(_: Declared, facts: ColumnFacts) -> Choice:
    return sa.Uuid() if facts.count("uuid") == facts.values else None


def _date(declared: Declared, facts: ColumnFacts) -> Choice:
    return sa.Date() if facts.count("date") == facts.values else _moment(declared, facts)


def _moment(declared: Declared, facts: ColumnFacts) -> Choice:
    if facts.count("zoned") == facts.values and (facts.values or declared.zoned):
        return sa.DateTime(timezone=True)
    return sa.DateTime() if facts.count("date", "naive") == facts.values else None


def _time(_: Declared, facts: ColumnFacts) -> Choice:
    return sa.Time() if facts.count("time") == facts.values else None


_BY_FAMILY: dict[Family, Callable[[Declared, ColumnFacts], Choice]] = {
    "smallint": _small,
    "integer": _whole,
    "boolean": _boolean,
    "real": lambda _, facts: _real(facts),
    "decimal": _decimal,
    "numeric": lambda _, facts: _numeric(facts),
    "string": _string,
    "text": _text,
    "bytes": _bytes,
    "json": _json,
    "uuid": _uuid,
    "date": _date,
    "moment": _moment,
    "time": _time,
}
