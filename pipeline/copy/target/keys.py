"""The keys of a table: primary key, uniques, foreign keys, indexes of columns, and the identity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from pipeline.copy.target import extras
from pipeline.copy.target.extras import Extra, LeftOut
from pipeline.copy.target.layout import CopiedTable, listed
from pipeline.copy.target.names import Names
from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import largest_integer
from pipeline.sqlite.structure.model import ForeignKey, Index, IndexPart, Unique

NOCASE, RTRIM, BINARY = "NOCASE", "RTRIM", "BINARY"


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
    for unique in table.source.uniques:
        planned.own.append(_unique(table, unique, names))
    for index in table.source.indexes:
        if index.where is None and all(part.column is not None for part in index.parts):
            planned.own.append(column_index(table, index, names))
    identity = _identity(table, last_id)
    if identity is not None:
        planned.own.append(identity)
    return planned


def plan_references(table: CopiedTable, copies: Mapping[str, CopiedTable], names: Names) -> Planned:
    """The foreign keys of a table.

    Args:
        copies: the tables of the copy, by folded name in the source.
        names: distinct names of the table's constraints.
    """
    planned = Planned()
    for number, key in enumerate(table.source.foreign_keys, 1):
        title = key.name or f"({', '.join(key.columns)}) to {key.parent}"
        parent = copies.get(key.parent.lower())
        if parent is None:
            reason = "the source has no such table, or it is excluded"
        elif not _is_unique(parent, key.parent_columns):
            reason = f"the referenced columns of {key.parent} are not declared unique"
        else:
            planned.references.append(_reference(table, key, parent, title, names, number))
            continue
        planned.left.append(LeftOut("foreign key", table.label, title, reason))
    return planned


def column_index(table: CopiedTable, index: Index, names: Names) -> Extra:
    """An index of columns."""
    made = names.of(index.name)
    parts = ", ".join(index_part(table, part) for part in index.parts)
    unique = "UNIQUE " if index.unique else ""
    columns = [table.names[_exact(table, p.column)] for p in index.parts if p.column is not None]
    return Extra(
        "index",
        table.label,
        index.name,
        f"CREATE {unique}INDEX {quoted(made)} ON {table.place} ({parts})",
        made,
        extras.repeated(table, columns) if index.unique else None,
    )


def index_part(table: CopiedTable, part: IndexPart, expression: str | None = None) -> str:
    """A column of an index, or an expression that was translated."""
    if expression is not None:
        sql = f"({expression})"
    else:
        name = _exact(table, part.column or "")
        sql = collated(quoted(table.names[name]), part.collation, _kind(table, name))
    return f"{sql} DESC" if part.descending else sql


def collated(column: str, collation: str, kind: "sa.types.TypeEngine[object]") -> str:
    """A column as an index compares it; other collations than SQLite's own compare exactly."""
    if not isinstance(kind, sa.String):
        return column
    if collation == NOCASE:
        return f"lower({column})"
    return f"rtrim({column}, ' ')" if collation == RTRIM else column


def _primary_key(
    table: CopiedTable, nulls: Mapping[str, int], names: Names, planned: Planned
) -> None:
    columns = table.source.primary_key
    if not columns:
        return
    made = names.of(f"{table.name}_pkey")
    here = [table.names[_exact(table, name)] for name in columns]
    empty = sum(nulls.get(_exact(table, name), 0) for name in columns)
    kind = "UNIQUE" if empty else "PRIMARY KEY"
    if empty:
        reason = (
            f"{empty:,} values of it are NULL, which PostgreSQL does not allow;"
            " it became a UNIQUE constraint"
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
            extras.repeated(table, here),
        )
    )


def _unique(table: CopiedTable, unique: Unique, names: Names) -> Extra:
    columns = [_exact(table, name) for name in unique.columns]
    here = [table.names[name] for name in columns]
    made = names.of(unique.name or f"{table.name}_{'_'.join(here)}_key")
    title = unique.name or f"({', '.join(unique.columns)})"
    counting = extras.repeated(table, here)
    parts = [
        collated(quoted(name), collation, _kind(table, column))
        for name, column, collation in zip(here, columns, unique.collations, strict=True)
    ]
    if parts == [quoted(name) for name in here]:
        statement = (
            f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} UNIQUE ({listed(here)})"
        )
    else:
        # Only an index can compare without case.
        statement = f"CREATE UNIQUE INDEX {quoted(made)} ON {table.place} ({', '.join(parts)})"
    return Extra("unique", table.label, title, statement, made, counting)


def _reference(
    table: CopiedTable, key: ForeignKey, parent: CopiedTable, title: str, names: Names, number: int
) -> Extra:
    here = [table.names[_exact(table, name)] for name in key.columns]
    there = [parent.names[_exact(parent, name)] for name in key.parent_columns]
    made = names.of(key.name or f"{table.name}_{'_'.join(here)}_fkey{number if number > 1 else ''}")
    actions = "".join(
        f" ON {event} {action}"
        for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update))
        if action != "NO ACTION"
    )
    deferred = " DEFERRABLE INITIALLY DEFERRED" if key.deferred else ""
    return Extra(
        "foreign key",
        table.label,
        title,
        f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} FOREIGN KEY ({listed(here)})"
        f" REFERENCES {parent.place} ({listed(there)}){actions}{deferred}",
        made,
        extras.orphans(table, here, parent.place, there),
    )


def _is_unique(table: CopiedTable, columns: Sequence[str]) -> bool:
    """Whether PostgreSQL accepts a reference to these columns."""
    wanted = {name.lower() for name in columns}
    return bool(wanted) and any(
        {name.lower() for name in each} == wanted for each in _unique_sets(table)
    )


def _unique_sets(table: CopiedTable) -> Iterator[Sequence[str]]:
    source = table.source
    if source.primary_key:
        yield source.primary_key
    for unique in source.uniques:
        yield unique.columns
    for index in source.indexes:
        if index.unique and index.where is None:
            yield [part.column or "" for part in index.parts]


def _identity(table: CopiedTable, last_id: int) -> Extra | None:
    source = table.source
    if not source.is_row_id:
        return None
    name = _exact(table, source.primary_key[0])
    kind = _kind(table, name)
    if not isinstance(kind, sa.Integer) or last_id >= largest_integer(kind):
        return None
    return Extra(
        "identity",
        table.label,
        name,
        f"ALTER TABLE {table.place} ALTER COLUMN {quoted(table.names[name])}"
        f" ADD GENERATED BY DEFAULT AS IDENTITY (START WITH {max(last_id, 0) + 1})",
    )


def _exact(table: CopiedTable, name: str) -> str:
    """The name of a column as its table declares it."""
    return table.source.column(name).name


def _kind(table: CopiedTable, name: str) -> "sa.types.TypeEngine[object]":
    found: sa.types.TypeEngine[object] = table.mapping.table.columns[table.names[name]].type
    return found
