"""DDL of the target, compiled from the declarations, and what is there already.

A table that is missing or empty is filled bare and gets its keys and indexes afterwards: that is
a factor of four. DDL is transactional, so nobody sees the table in between.
"""

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import AddConstraint, CreateColumn, CreateIndex, CreateTable

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import quoted
from pipeline.declared import ledger
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import DIALECT, type_name
from pipeline.postgres import access, objects, relations
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Present:
    """What the target holds under a table's name.

    Attributes:
        exists: whether there is a table.
        rows: whether it has any row.
        types: column name -> type, as PostgreSQL writes it.
        required: columns that are NOT NULL and have no default.
        primary_key: name of the primary key constraint.
        referenced: whether another table's foreign key needs the primary key.
        constraints: foreign key, unique and CHECK constraints by name.
        unproven: those of them that were never validated.
        indexes: names of indexes that belong to no constraint.
        facts: what else the catalog says of it; None where there is no table.
    """

    exists: bool
    rows: bool = False
    types: dict[str, str] | None = None
    required: frozenset[str] = frozenset()
    primary_key: str | None = None
    referenced: bool = False
    constraints: frozenset[str] = frozenset()
    unproven: frozenset[str] = frozenset()
    indexes: frozenset[str] = frozenset()
    facts: relations.Facts | None = None


def compiled(element: Any) -> str:
    """DDL as PostgreSQL reads it, with blanks and line ends of names as they are."""
    return str(element.compile(dialect=DIALECT)).strip()


def exists(target: Target, table: str) -> bool:
    """Whether the target has something under a name, in schema ``public``."""
    return bool(target.value("SELECT to_regclass($1) IS NOT NULL", (f"public.{quoted(table)}",)))


_LOOK = f"""
SELECT json_build_object(
  'facts', {relations.FACTS},
  'columns', (SELECT coalesce(json_agg(json_build_array(attname,
      format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef AND attidentity = '')), '[]')
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
  'constraints', (SELECT coalesce(json_agg(json_build_array(conname, contype, convalidated)), '[]')
    FROM pg_constraint WHERE conrelid = c.oid),
  'indexes', (SELECT coalesce(json_agg(n.relname), '[]')
    FROM pg_index AS i JOIN pg_class AS n ON n.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND NOT EXISTS (SELECT FROM pg_constraint AS k
      WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)),
  'referenced', EXISTS (SELECT FROM pg_constraint WHERE confrelid = c.oid AND contype = 'f')
)::text FROM pg_class AS c WHERE oid = to_regclass($1)
"""


def inspect(target: Target, table: str) -> Present:
    """See what the target holds under a name, in schema ``public``.

    Raises:
        ShapeError: the name belongs to something else than one plain table.
    """
    found = target.rows(_LOOK, (f"public.{quoted(table)}",))
    if not found:
        return Present(exists=False)
    met = json.loads(found[0][0])
    facts = relations.Facts.of(met["facts"])
    relations.require_plain(table, facts)
    columns, constraints = met["columns"], met["constraints"]
    return Present(
        exists=True,
        rows=target.value(f"SELECT EXISTS (SELECT FROM {quoted(table)})"),
        types={attribute: kind for attribute, kind, _ in columns},
        required=frozenset(attribute for attribute, _, needed in columns if needed),
        primary_key=next((n for n, kind, _ in constraints if kind == "p"), None),
        referenced=met["referenced"],
        constraints=frozenset(n for n, kind, _ in constraints if kind in ("f", "u", "c")),
        unproven=frozenset(n for n, _, proven in constraints if not proven),
        indexes=frozenset(met["indexes"]),
        facts=facts,
    )


def inspect_for_writing(target: Target, mapping: TableMapping) -> Present:
    """See what the target holds under a table's name, and whether it keeps what is written.

    Raises:
        ShapeError: it is something else than one plain table, or keeps other values.
    """
    present = inspect(target, mapping.name)
    if present.facts is not None:
        columns = [column.name for column in mapping.columns]
        relations.require_writable(mapping.name, present.facts, columns=columns)
    return present


def check_shape(mapping: TableMapping, present: Present) -> None:
    """Refuse a table of the same name with another shape.

    Raises:
        ShapeError: names every column that differs.
    """
    if not present.exists:
        return
    types = present.types or {}
    wrong = []
    for column in mapping.table.columns:
        actual, expected = types.get(column.name), type_name(column.type)
        if actual is None and column.name not in mapping.carried:
            wrong.append(f"{column.name} is missing")
        elif actual is not None and actual != expected:
            wrong.append(f"{column.name} is {actual} instead of {expected}")
    declared = {column.name for column in mapping.table.columns}
    wrong += [f"{name} is required there but unknown here" for name in present.required - declared]
    if wrong:
        raise ShapeError(
            f"Table {mapping.name} of the target has another shape: {'; '.join(sorted(wrong))}",
            remedy="Rename or drop that table, or point DATABASE_URL at another database",
        )


def prepare(mapping: TableMapping, present: Present) -> list[str]:
    """DDL that makes the table able to take rows: the table, and columns it still lacks."""
    if not present.exists:
        return [*_create(mapping)]
    types = present.types or {}
    return [
        f"ALTER TABLE {quoted(mapping.name)} ADD COLUMN {compiled(CreateColumn(column))}"
        for column in mapping.table.columns
        if column.name not in types
    ]


def strip(mapping: TableMapping, present: Present) -> list[str]:
    """DDL that takes keys and indexes off an empty table, except a key that others refer to."""
    if not present.exists:
        return []
    name = quoted(mapping.name)
    foreign = {key.name for key in _foreign_keys(mapping.table)} & present.constraints
    # What is unique is held against every row as it comes; it is told apart afterwards.
    foreign |= {unique.name for unique in uniques_of(mapping.table)} & present.constraints
    own = {index.name for index in mapping.table.indexes} & present.indexes
    drops = [
        f"ALTER TABLE {name} DROP CONSTRAINT {quoted(str(key))}"
        for key in sorted(map(str, foreign))
    ]
    drops += [f"DROP INDEX {quoted(str(index))}" for index in sorted(map(str, own))]
    if present.primary_key and not present.referenced:
        drops.append(f"ALTER TABLE {name} DROP CONSTRAINT {quoted(present.primary_key)}")
    return drops


def foreign_keys(mapping: TableMapping, present: Present) -> list[str]:
    """DDL for the foreign keys that are not there, or were never validated."""
    missing, name = [], quoted(mapping.name)
    for key in _foreign_keys(mapping.table):
        if key.name not in present.constraints:
            missing.append(compiled(AddConstraint(key, isolate_from_table=False)))
        elif key.name in present.unproven:
            missing.append(f"ALTER TABLE {name} VALIDATE CONSTRAINT {quoted(str(key.name))}")
    return missing


def keys(mapping: TableMapping, present: Present) -> list[str]:
    """DDL for the primary key and other constraints that are not there."""
    table = mapping.table
    missing = (
        []
        if present.primary_key
        else [compiled(AddConstraint(table.primary_key, isolate_from_table=False))]
    )
    for constraint in sorted(table.constraints, key=lambda c: str(c.name)):
        unique = isinstance(constraint, sa.UniqueConstraint)
        check = isinstance(constraint, sa.CheckConstraint) and present.exists
        if (unique or check) and constraint.name not in present.constraints:
            missing.append(compiled(AddConstraint(constraint, isolate_from_table=False)))
    return missing


def indexes(mapping: TableMapping, present: Present) -> list[str]:
    """DDL for the indexes that are not there."""
    return [
        compiled(CreateIndex(index))
        for index in sorted(mapping.table.indexes, key=lambda index: str(index.name))
        if index.name not in present.indexes
    ]


def make_ledger(target: Target) -> None:
    """Make the ledger's tables, as far as they are not there."""
    tables = ledger.metadata.sorted_tables
    there = target.value(
        "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)"
        " AND relname = ANY($2) AND relkind = 'r'",
        (ledger.SCHEMA, [table.name for table in tables]),
    )
    if there < len(tables):
        target.run(*ledger_ddl())
        access.hide(target)


def ledger_ddl() -> list[str]:
    """DDL of the ledger; what is there already stays."""
    tables = (CreateTable(table, if_not_exists=True) for table in ledger.metadata.sorted_tables)
    return [f"CREATE SCHEMA IF NOT EXISTS {ledger.SCHEMA}", *map(compiled, tables)]


def whole(mapping: TableMapping) -> list[str]:
    """DDL of a table that is not there, with all that belongs to it but functions."""
    absent = Present(exists=False)
    return [
        *prepare(mapping, absent),
        *keys(mapping, absent),
        *foreign_keys(mapping, absent),
        *indexes(mapping, absent),
        *objects.triggers_ddl(mapping.table),
    ]


def _create(mapping: TableMapping) -> list[str]:
    table = mapping.table
    lines = [compiled(CreateColumn(column)) for column in table.columns]
    compiler = DIALECT.ddl_compiler(DIALECT, CreateTable(table))
    lines += [
        compiler.process(constraint).strip()
        for constraint in sorted(table.constraints, key=lambda c: str(c.name))
        if isinstance(constraint, sa.CheckConstraint)
    ]
    statements = [f"CREATE TABLE {quoted(table.name)} ({', '.join(lines)})"]
    statements += [
        f"ALTER TABLE {quoted(table.name)} ALTER COLUMN {quoted(column.name)} SET STORAGE {storage}"
        for column in table.columns
        if (storage := ColumnRules.of(column).storage)
    ]
    return statements


def uniques_of(table: sa.Table) -> list[sa.UniqueConstraint]:
    """What is declared unique beside the key, in order of its names."""
    found = (each for each in table.constraints if isinstance(each, sa.UniqueConstraint))
    return sorted(found, key=lambda unique: str(unique.name))


def _foreign_keys(table: sa.Table) -> list[sa.ForeignKeyConstraint]:
    return sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
