"""What a table has by expressions: CHECKs, indexes, defaults, generated columns."""

from dataclasses import replace

from pipeline.copy.expressions.translate import (
    NotTranslated,
    Translation,
    condition,
    default,
    generated,
    index_part,
    where,
)
from pipeline.copy.expressions.trial import Condition
from pipeline.copy.target import extras
from pipeline.copy.target.extras import Extra, Kind, LeftOut
from pipeline.copy.target.keys import Planned
from pipeline.copy.target.layout import CopiedTable
from pipeline.copy.target.names import Names
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import Check, Index

_DESCENDING = " DESC"
"""The end of an element of an index that is in descending order."""


def with_generated(table: CopiedTable) -> tuple[CopiedTable, list[LeftOut]]:
    """The table with the generated columns that translate, and those that do not.

    A column of the second kind holds the values of the source.
    """
    computed, left = {}, []
    for column in table.source.columns:
        if column.expression is None:
            continue
        made = table.targets[folded(column.name)]
        found = generated(column.expression, table.targets, made.kind, table=table.source.name)
        if isinstance(found, Translation):
            computed[made.name] = found.sql
        else:
            reason = f"it {found.reason}; it holds the values of the source"
            left.append(LeftOut("generated column", table.label, column.name, reason))
    return replace(table, computed=computed), left


def plan_conditions(table: CopiedTable, names: Names, planned: Planned) -> None:
    """Add CHECKs, indexes and defaults to a plan.

    Args:
        names: of all relations of the schema.
    """
    of_checks = Names()
    for check in table.source.checks:
        _check(table, check, of_checks, planned)
    for index in table.source.indexes:
        _index(table, index, names, planned)
    for column in table.source.columns:
        made = table.targets[folded(column.name)]
        if column.default is None or made.name in table.computed:
            continue
        found = default(column.default, made.kind)
        if isinstance(found, NotTranslated):
            _leave("default", table, column.name, found, planned)
        elif found.sql != "NULL":
            statement = (
                f"ALTER TABLE {table.place} ALTER COLUMN {quoted(made.name)}"
                f" SET DEFAULT {found.sql}"
            )
            extra = Extra("default", table.label, column.name, statement, column=made.name)
            planned.own.append(extra)


def _check(table: CopiedTable, check: Check, names: Names, planned: Planned) -> None:
    title = check.name or f"({check.sql})"
    found = condition(check.sql, table.targets, table=table.source.name)
    if isinstance(found, NotTranslated):
        _leave("check", table, title, found, planned)
        return
    if found.always:
        return
    made = names.of(check.name or f"{table.name}_check")
    statement = f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} CHECK ({found.sql})"
    judged = Condition(check.sql, found.sql)
    planned.own.append(Extra("check", table.label, title, statement, made, condition=judged))


def _index(table: CopiedTable, index: Index, names: Names, planned: Planned) -> None:
    elements = []
    for part in index.parts:
        found = index_part(part, table.targets, table=table.source.name)
        if isinstance(found, NotTranslated):
            _leave("index", table, index.name, found, planned)
            return
        elements.append(found.sql)
    only, judged = "true", None
    if index.where is not None:
        found = where(index.where, table.targets, table=table.source.name)
        if isinstance(found, NotTranslated):
            _leave("index", table, index.name, found, planned)
            return
        only, judged = found.sql, Condition(index.where, found.sql, "index")
    made = names.of(index.name)
    unique = "UNIQUE " if index.unique else ""
    partial = f" WHERE {only}" if index.where is not None else ""
    values = [element.removesuffix(_DESCENDING) for element in elements]
    planned.own.append(
        Extra(
            "index",
            table.label,
            index.name,
            f"CREATE {unique}INDEX {quoted(made)} ON {table.place}"
            f" ({', '.join(elements)}){partial}",
            made,
            extras.repeated(table, values, only) if index.unique else None,
            judged,
            elements=tuple(elements),
        )
    )


def _leave(
    kind: Kind, table: CopiedTable, name: str, found: NotTranslated, planned: Planned
) -> None:
    planned.left.append(LeftOut(kind, table.label, name, f"it {found.reason}"))
