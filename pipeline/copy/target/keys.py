"""The keys of a table: primary key, uniques, foreign keys, indexes of columns, and the identity."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from pipeline.copy.expressions.translate import NotTranslated, Translation, index_part
from pipeline.copy.target import extras
from pipeline.copy.target.extras import Extra, LeftOut
from pipeline.copy.target.layout import CopiedTable, listed
from pipeline.copy.target.names import Names
from pipeline.core.quoting import counted, literal, quoted
from pipeline.mapping.casts.types import largest_integer
from pipeline.sqlite.structure.model import IndexPart, Unique


@dataclass
class Planned:
    """What is to be made for a table, and what cannot be.

    Attributes:
        own: extras that concern the table alone.
        references: foreign keys, which follow the rows of all tables of a unit.
    """

    own: list[Extra] = field(default_factory=list)
    references: list[Extra] = field(default_factory=list)
    left: list[LeftOut] = field(default_factory=list)


def plan_keys(
    table: CopiedTable, *, nulls: Mapping[str, int], last_id: int, names: Names
) -> Planned:
    """Everything but foreign keys.

    Args:
        nulls: number of NULLs by column of the source.
        last_id: the largest id that was ever assigned.
        names: of all relations of the schema.
    """
    planned = Planned()
    _primary_key(table, nulls, names, planned)
    _folded_key(table, names, planned)
    for unique in table.source.uniques:
        _unique(table, unique, names, planned)
    identity = _identity(table, last_id, planned)
    if identity is not None:
        planned.own.append(identity)
    return planned


def required(table: CopiedTable) -> list[Extra]:
    """NOT NULL of columns, which a new table has from the beginning."""
    return [
        Extra(
            "not null",
            table.label,
            name,
            f"ALTER TABLE {table.place} ALTER COLUMN {quoted(name)} SET NOT NULL",
            column=name,
        )
        for name in sorted(table.required)
    ]


def _primary_key(
    table: CopiedTable, nulls: Mapping[str, int], names: Names, planned: Planned
) -> None:
    columns = table.source.primary_key
    if not columns:
        return
    made = names.of(f"{table.name}_pkey")
    here = [table.names[table.exact(name)] for name in columns]
    empty = sum(nulls.get(table.exact(name), 0) for name in columns)
    kind = "UNIQUE" if empty else "PRIMARY KEY"
    if empty:
        reason = (
            f"{counted(empty, 'value')} of it {'is' if empty == 1 else 'are'} NULL, which"
            " PostgreSQL does not allow; it became a UNIQUE constraint"
        )
        title = f"({', '.join(columns)})"
        planned.left.append(LeftOut("primary key", table.label, title, reason))
    statement = f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} {kind} ({listed(here)})"
    planned.own.append(
        Extra(
            "primary key",
            table.label,
            f"({', '.join(columns)})",
            statement,
            made,
            extras.repeated(table, [quoted(name) for name in here]),
            elements=tuple(here),
        )
    )


def _folded_key(table: CopiedTable, names: Names, planned: Planned) -> None:
    """A primary key that compares otherwise than by bytes is a unique index as well."""
    if set(table.source.key_collations) - {"BINARY"}:
        key = Unique(table.source.primary_key, table.source.key_collations)
        _unique(table, key, names, planned)


def _unique(table: CopiedTable, unique: Unique, names: Names, planned: Planned) -> None:
    here = [table.names[table.exact(name)] for name in unique.columns]
    made = names.of(unique.name or f"{table.name}_{'_'.join(here)}_key")
    title = unique.name or f"({', '.join(unique.columns)})"
    parts = [
        index_part(IndexPart(name, None, collation), table.targets, table=table.source.name)
        for name, collation in zip(unique.columns, unique.collations, strict=True)
    ]
    elements = [part.sql for part in parts if isinstance(part, Translation)]
    if elements == [quoted(name) for name in here]:
        statement = (
            f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} UNIQUE ({listed(here)})"
        )
    elif len(elements) == len(here):
        # Only an index can compare without case.
        statement = f"CREATE UNIQUE INDEX {quoted(made)} ON {table.place} ({', '.join(elements)})"
    else:
        reasons = [part.reason for part in parts if isinstance(part, NotTranslated)]
        planned.left.append(LeftOut("unique", table.label, title, f"it {reasons[0]}"))
        return
    counting = extras.repeated(table, elements)
    planned.own.append(
        Extra("unique", table.label, title, statement, made, counting, elements=tuple(elements))
    )


def _identity(table: CopiedTable, last_id: int, planned: Planned) -> Extra | None:
    source = table.source
    if not source.is_row_id:
        return None
    name = table.exact(source.primary_key[0])
    kind = _kind(table, name)
    if not isinstance(kind, sa.Integer):
        return None
    if last_id >= largest_integer(kind):
        reason = "the largest id is the last one of its type"
        planned.left.append(LeftOut("identity", table.label, name, reason))
        return None
    column = table.names[name]
    return Extra(
        "identity",
        table.label,
        name,
        f"ALTER TABLE {table.place} ALTER COLUMN {quoted(column)}"
        f" ADD GENERATED BY DEFAULT AS IDENTITY (START WITH {max(last_id, 0) + 1})",
        column=column,
        again=_advanced(table, column, last_id) if last_id > 0 else None,
    )


def _advanced(table: CopiedTable, column: str, last_id: int) -> str:
    """A statement after which the sequence of an identity is not behind an id; it never goes back.

    ``pg_sequence_last_value`` is NULL until the first id is assigned.
    """
    sequence = f"pg_get_serial_sequence({literal(table.place)}, {literal(column)})"
    return (
        f"SELECT setval(s.seqrelid, {last_id}) FROM pg_sequence AS s"
        f" WHERE s.seqrelid = to_regclass({sequence})"
        f" AND coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart - 1) < {last_id}"
    )


def _kind(table: CopiedTable, name: str) -> "sa.types.TypeEngine[object]":
    found: sa.types.TypeEngine[object] = table.mapping.table.columns[table.names[name]].type
    return found
