"""The types of columns that only the source has, by what they hold.

The type of an existing column of the target is kept if it takes every value. Otherwise the first
suitable type is chosen, so that such a column never costs a row.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.mapping.casts import carried
from pipeline.mapping.casts.cast import Cast
from pipeline.mapping.casts.types import cast_for
from pipeline.mapping.contract import column_rules
from pipeline.mapping.matching import SourceColumn
from pipeline.mapping.table_mapping import TableMapping

_BATCH = 10_000
_REFUSED_ESCAPES = ("*\\u0000*", "*\\u[dD][89a-fA-F]*", "*[0-9.][eE]*[0-9][0-9][0-9]*")
"""Patterns of JSON texts that jsonb may refuse: NUL, lone surrogates, huge exponents."""


def carried_types(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[SourceColumn],
    existing: Mapping[str, str],
    *,
    naive_zone: str,
) -> tuple[tuple[str, str], ...]:
    """The name of the type of each column; see ``pipeline.mapping.casts.carried``.

    Args:
        connection: returns texts as bytes.
        table: SQL for the table.
        existing: types of the target's columns, as PostgreSQL writes them.
    """
    types = []
    for column in columns:
        options = _options(connection, table, column, existing.get(column.name))
        fitting = (
            name
            for name in options
            if _fits(connection, table, column, name, naive_zone=naive_zone)
        )
        types.append((column.name, carried.settled(column.declared, next(fitting))))
    return tuple(types)


def _options(
    connection: sqlite3.Connection, table: str, column: SourceColumn, existing: str | None
) -> Iterator[str]:
    if existing is not None and (name := carried.existing(column.declared, existing)):
        yield name
    name = quoted(column.name)
    filled = connection.execute(f"SELECT 1 FROM {table} WHERE {name} IS NOT NULL LIMIT 1")
    yield from carried.candidates(column.declared, column.default, empty=filled.fetchone() is None)


def misfits(mapping: TableMapping) -> str | None:
    """SQL that is true for rows with a value that a carried column does not take."""
    wrong = [
        f"({rule.violated})"
        for column in mapping.columns
        if column.name in mapping.carried
        for rule in column_rules(mapping, column)
    ]
    return f"({' OR '.join(wrong)}) IS TRUE" if wrong else None


def misfit(column: SourceColumn, type_name: str) -> str:
    """SQL that is true for values that a type does not take."""
    kind, name = carried.kind(type_name), quoted(column.name)
    cast = cast_for(sa.Column(column.name, kind))
    rules = [cast.storage_rule(name, ""), *cast.rules(name)]
    conditions = [f"({rule.violated})" for rule in rules]
    if type_name == "jsonb":
        conditions += [f"CAST({name} AS TEXT) GLOB '{each}'" for each in _REFUSED_ESCAPES]
    return f"({' OR '.join(conditions)}) IS TRUE"


def _fits(
    connection: sqlite3.Connection,
    table: str,
    column: SourceColumn,
    type_name: str,
    *,
    naive_zone: str,
) -> bool:
    wrong = f"SELECT 1 FROM {table} WHERE {misfit(column, type_name)} LIMIT 1"
    if connection.execute(wrong).fetchone() is not None:
        return False
    cast = cast_for(sa.Column(column.name, carried.kind(type_name)), naive_zone=naive_zone)
    if cast.raw != pa.string():
        return True
    return _converts(connection, table, column, cast)


def _converts(connection: sqlite3.Connection, table: str, column: SourceColumn, cast: Cast) -> bool:
    """Whether every text is valid UTF-8 that the cast accepts."""
    name = quoted(column.name)
    found = connection.execute(
        f"SELECT CAST({cast.read(name)} AS BLOB) FROM {table} WHERE {name} IS NOT NULL"
    )
    while rows := found.fetchmany(_BATCH):
        try:
            cast.convert(pa.array([value for (value,) in rows], pa.binary()).cast(pa.string()))
        except pa.ArrowInvalid:
            return False
    return True
