"""Hints: what values look like, if their type does not say it. A hint is never a decision."""

import re
import shlex
from typing import Any

import sqlalchemy as sa

from pipeline.copy.census.declared import meaning
from pipeline.copy.census.facts import ColumnFacts
from pipeline.copy.census.formats import Form
from pipeline.declared.forms import UNITS, Unit
from pipeline.mapping.plausible import MOST, WORDS, moment_text, seconds_at
from pipeline.sqlite.structure.model import Column

_TYPES: dict[Form, tuple[str, str]] = {
    "uuid": ("uuid", "UUIDs"),
    "bare_uuid": ("uuid", "UUIDs without hyphens"),
    "json": ("jsonb", "JSON"),
    "date": ("date", "dates"),
    "naive": ("timestamp", "moments without a time zone"),
    "zoned": ("timestamptz", "moments with a time zone"),
}
"""Types of texts and what such texts are, by form."""
_TRUTH = re.compile(r"(?:is|has|can|was|should|allow|enable)[_A-Z].*|.*_(?:flag|enabled|active)")
_BIT = re.compile(r"\s*(?:TINYINT\s*\(\s*1\s*\)|BIT\s*(?:\(\s*1\s*\))?)\s*", re.IGNORECASE)
"""Types that MySQL and SQL Server, and thus frameworks, use for true and false."""


def hint(
    table: str, column: Column, facts: ColumnFacts, kind: "sa.types.TypeEngine[Any]"
) -> str | None:
    """What the user may choose instead of a type, with the option that does it."""
    if isinstance(kind, sa.LargeBinary) or not facts.values:
        return None
    if facts.unstorable:
        one = facts.unstorable == 1
        what = "1 text has" if one else f"{facts.unstorable:,} texts have"
        return (
            f"{what} a NUL or {'is' if one else 'are'} not valid UTF-8, so only bytea can hold"
            f" {'it' if one else 'them'}: {_cast(table, column, 'bytea')}"
        )
    found = _numbers(column, facts) or _texts(column, facts, kind) or _words(facts, kind)
    if found is None:
        return None
    type_name, sentence = found
    return f"{sentence}: {_cast(table, column, type_name)}"


def contents(facts: ColumnFacts) -> str:
    """What a column holds, for people."""
    counts = {
        "integer": facts.integers,
        "real": facts.reals,
        "text": facts.texts,
        "BLOB": facts.blobs,
    }
    parts = [
        f"{count:,} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count
    ]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return listed if facts.exception is None else f"{listed}, such as {facts.exception!r}"


def _cast(table: str, column: Column, type_name: str) -> str:
    return f"--cast {shlex.quote(f'{table}.{column.name}={type_name}')}"


def _numbers(column: Column, facts: ColumnFacts) -> tuple[str, str] | None:
    rest = facts.values - facts.integers - facts.reals
    if rest and rest != facts.count("date", "naive", "zoned"):
        return None
    unit = _unit(facts)
    if unit is not None:
        what = "the numbers" if rest else "the values"
        others = ", and all texts are moments" if rest else ""
        return unit, f"{what} look like {unit.replace('_', ' ')}{_example(facts, unit)}{others}"
    speaks = _TRUTH.fullmatch(column.name) or _BIT.fullmatch(column.declared)
    if facts.is_binary and facts.integers and speaks:
        declared = meaning(column.declared).family
        return None if declared == "boolean" else ("boolean", "all values are 0 or 1")
    return None


def _unit(facts: ColumnFacts) -> Unit | None:
    """The unit in which most numbers are plausible moments."""
    positive = facts.count("positive")
    plausible = (unit for unit in UNITS if facts.count(unit) >= positive * MOST)
    return next(plausible, None) if positive else None


def _example(facts: ColumnFacts, unit: Unit) -> str:
    number = float(facts.examples[0])
    if number <= 0:
        return ""
    return f" since 1970, so {facts.examples[0]} is {moment_text(seconds_at(number, unit))}"


def _texts(
    column: Column, facts: ColumnFacts, kind: "sa.types.TypeEngine[Any]"
) -> tuple[str, str] | None:
    if not isinstance(kind, sa.String) or facts.texts < facts.values:
        return None
    moments = facts.count("date", "naive", "zoned")
    if moments == facts.texts:
        sentence = "some moments name a time zone, others do not; these can be read as UTC"
        return "timestamptz", sentence
    for form, (type_name, what) in _TYPES.items():
        if form in facts.sampled and meaning(column.declared).family != form:
            return type_name, f"the first texts are {what}"
    return None


def _words(facts: ColumnFacts, kind: "sa.types.TypeEngine[Any]") -> tuple[str, str] | None:
    if not isinstance(kind, sa.String) or facts.reals or facts.blobs or not facts.within(0, 1):
        return None
    words = {word.lower() for word in facts.words or ()}
    pair = next((each for each in WORDS if words and words <= {*each.split("/")}), None)
    if pair is None:
        return None
    return pair, f"all {'values are 0, 1 or' if facts.integers else 'texts are'} the words {pair}"
