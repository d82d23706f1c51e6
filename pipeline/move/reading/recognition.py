"""Recognize the form of values that a column's type does not take, to propose a setting.

Nothing is converted by a guess: a number may be a moment or a count. A person confirms the form.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import sqlalchemy as sa

from pipeline.core.findings import Drift, Finding
from pipeline.core.quoting import quoted
from pipeline.declared import forms
from pipeline.declared.forms import DECIMAL_TEXT, UNITS, EpochMoment, Unit
from pipeline.mapping.casts.cast import is_number
from pipeline.mapping.casts.epochs import MICROSECONDS
from pipeline.mapping.contract import column_rules
from pipeline.mapping.plausible import FIRST, LAST, MOST, WORDS, moment_text, number_at, seconds_at
from pipeline.mapping.table_mapping import TableMapping

_SHOWN = 40
_UNDECIDED = (sa.DateTime, sa.Date, sa.Time, sa.Boolean)


@dataclass(frozen=True)
class FormProposal(Finding):
    """A form in which the values of a column can be read.

    Attributes:
        values: how many there are.
        example: one of them, and its meaning.
    """

    title: ClassVar[str] = "form recognized"
    heading: ClassVar[str] = "Forms of values that a setting can declare"
    table: str
    column: str
    form: str
    values: int
    example: str
    meaning: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        form = self.form.replace("_", " ")
        return (
            f"{self.table}.{self.column}: {self.values:,} values can be read as {form}; then"
            f" {self.example} is {self.meaning}"
        )


def proposals(
    connection: sqlite3.Connection, mapping: TableMapping, *, schema: str = "main"
) -> tuple[FormProposal, ...]:
    """The proposed forms of a table's columns.

    Args:
        connection: reads the source; texts are bytes or strings.
    """
    table = f"{schema}.{quoted(mapping.name)}"
    found = (_proposal(connection, mapping, column, table) for column in _undecided(mapping))
    return tuple(each for each in found if each is not None)


def _undecided(mapping: TableMapping) -> Iterator[sa.Column[Any]]:
    """Columns whose values may have a form that nobody has declared."""
    for column in mapping.columns:
        if forms.form_of(column.type) is not None or column.name == mapping.key.name:
            continue
        if column.name in mapping.carried:
            declared = mapping.declared[column.name].upper()
            if declared.startswith(("DATE", "TIME", "BOOL")):
                yield column
        elif isinstance(column.type, _UNDECIDED) or _is_decimal(column):
            yield column


def _is_decimal(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Numeric) and not isinstance(column.type, sa.Float)


def _proposal(
    connection: sqlite3.Connection,
    mapping: TableMapping,
    column: sa.Column[Any],
    table: str,
) -> FormProposal | None:
    name = mapping.in_source(column.name)
    if column.name in mapping.carried:
        wrong = f"{name} IS NOT NULL"
    else:
        rules = [rule.violated for rule in column_rules(mapping, column) if rule.code != "null"]
        wrong = f"({' OR '.join(f'({rule})' for rule in rules)}) IS TRUE"
    found = (
        _decimal(connection, table, name, wrong)
        if _is_decimal(column)
        else _words(connection, table, name, wrong) or _unit(connection, table, name, wrong)
    )
    if found is None:
        return None
    form, values, example, meaning = found
    if forms.is_words(form) and not _takes_words(mapping, column):
        return None
    if column.name not in mapping.carried and forms.of_form(column, form) is None:
        return None
    return FormProposal(mapping.name, column.name, form, values, example, meaning)


def _takes_words(mapping: TableMapping, column: sa.Column[Any]) -> bool:
    if column.name in mapping.carried:
        return mapping.declared[column.name].upper().startswith("BOOL")
    return isinstance(column.type, sa.Boolean)


def _words(
    connection: sqlite3.Connection, table: str, name: str, wrong: str
) -> tuple[str, int, str, str] | None:
    sql = f"SELECT lower(CAST({name} AS TEXT)), count(*) FROM {table} WHERE {wrong}"
    rows = connection.execute(f"{sql} GROUP BY 1 LIMIT 3").fetchall()
    counts = {_text(word): count for word, count in rows}
    for form in WORDS:
        true, false = form.split("/")
        if counts and counts.keys() <= {true, false}:
            example = min(counts)
            return form, sum(counts.values()), example, str(example == true).lower()
    return None


def _unit(
    connection: sqlite3.Connection, table: str, name: str, wrong: str
) -> tuple[str, int, str, str] | None:
    number = f"CAST({name} AS NUMERIC)"
    is_one = (
        f"typeof({name}) IN ('integer', 'real') OR (typeof({name}) = 'text' AND {is_number(name)})"
    )
    values, numbers, positive = connection.execute(
        f"SELECT count(*), sum({is_one}), sum({number} > 0) FROM {table} WHERE {wrong}"
    ).fetchone()
    if not values or values != numbers or not positive:
        return None
    for unit in UNITS:
        first, last = (number_at(end, unit) for end in (FIRST, LAST))
        plausible, largest = connection.execute(
            f"SELECT count(*), max({number}) FROM {table}"
            f" WHERE ({wrong}) AND {number} BETWEEN {first} AND {last}"
        ).fetchone()
        if plausible >= positive * MOST:
            since = seconds_at(largest, unit)
            return unit, values, str(largest), moment_text(since)
    return None


def _decimal(
    connection: sqlite3.Connection, table: str, name: str, wrong: str
) -> tuple[str, int, str, str] | None:
    values, numbers, example = connection.execute(
        f"SELECT count(*), sum(typeof({name}) = 'text' AND {is_number(name)}), min({name})"
        f" FROM {table} WHERE {wrong}"
    ).fetchone()
    if not values or values != numbers:
        return None
    return DECIMAL_TEXT, values, repr(_text(example)), _text(example)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def doubts(
    connection: sqlite3.Connection, mapping: TableMapping, *, schema: str = "main"
) -> Iterator[Drift]:
    """Columns with numbers of another unit than the declared one.

    A number of seconds is accepted as one of milliseconds, and becomes a day in January 1970.
    """
    table = f"{schema}.{quoted(mapping.name)}"
    for column in mapping.columns:
        if isinstance(column.type, EpochMoment):
            yield from _coarser(connection, mapping, column, column.type.unit, table)


def unreadable(
    connection: sqlite3.Connection,
    mapping: TableMapping,
    proposed: Sequence[FormProposal],
    *,
    schema: str = "main",
) -> Iterator[Drift]:
    """Columns with values of a storage class that their type does not take, in no known form."""
    table = f"{schema}.{quoted(mapping.name)}"
    known = {(each.table, each.column) for each in proposed}
    for column in _undecided(mapping):
        if column.name in mapping.carried or (mapping.name, column.name) in known:
            continue
        name = mapping.in_source(column.name)
        wrong = mapping.casts[column.name].storage_rule(name, "").violated
        count, example = connection.execute(
            f"SELECT count(*), min(substr(CAST({name} AS TEXT), 1, {_SHOWN})) FROM {table}"
            f" WHERE {wrong}"
        ).fetchone()
        if count:
            detail = f"{count:,} values such as {_text(example)} have no known form"
            yield Drift(mapping.name, column.name, "unreadable", detail)


def _coarser(
    connection: sqlite3.Connection,
    mapping: TableMapping,
    column: sa.Column[Any],
    unit: Unit,
    table: str,
) -> Iterator[Drift]:
    """Numbers that are plausible moments in a coarser unit; then they are none in this one."""
    name = mapping.in_source(column.name)
    number = f"CAST({name} AS NUMERIC)"
    for other in UNITS[: UNITS.index(unit)] if unit in MICROSECONDS else ():
        first, last = (number_at(end, other) for end in (FIRST, LAST))
        count, example = connection.execute(
            f"SELECT count(*), max({number}) FROM {table} WHERE {number} BETWEEN {first} AND {last}"
            f" AND (typeof({name}) IN ('integer', 'real') OR {is_number(name)})"
        ).fetchone()
        if count:
            read = moment_text(seconds_at(example, unit))
            detail = f"{count:,} values look like {other}, not {unit}: {example} is read as {read}"
            yield Drift(mapping.name, column.name, "another unit", detail)


def settings(
    found: Sequence[FormProposal], declared: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The setting that declares all of these forms, and those that are declared already."""
    forms = {**declared, **{f"{each.table}.{each.column}": each.form for each in found}}
    return f"POLICY_FORMS={json.dumps(forms, ensure_ascii=False)}"
