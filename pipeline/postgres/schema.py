"""DDL of the target, compiled from the declarations, and the current state of its tables.

Missing or empty tables are loaded first; keys and indexes follow, which is four times faster. DDL
is transactional, so no other session sees the table without them.
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
from pipeline.postgres import access, relations, table_functions
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class TargetTableState:
    """The current state of a table in the target.

    Attributes:
        rows: whether it has any row.
        types: column name -> type, as PostgreSQL writes it.
        required: columns that are NOT NULL and have no default.
        primary_key: name of the primary key constraint.
        referenced: whether another table's foreign key needs the primary key.
        constraints: names of foreign key, unique and CHECK constraints.
        not_validated: constraints that were never validated.
        indexes: names of indexes that belong to no constraint.
        facts: None if there is no table.
    """

    exists: bool
    rows: bool = False
    types: dict[str, str] | None = None
    required: frozenset[str] = frozenset()
    primary_key: str | None = None
    referenced: bool = False
    constraints: frozenset[str] = frozenset()
    not_validated: frozenset[str] = frozenset()
    indexes: frozenset[str] = frozenset()
    facts: relations.Facts | None = None


def compiled(element: Any) -> str:
    """DDL for PostgreSQL; blanks and line breaks inside names are kept."""
    return str(element.compile(dialect=DIALECT)).strip()


def exists(target: Target, table: str) -> bool:
    """Whether schema ``public`` of the target has a relation of this name."""
    return bool(target.value("SELECT to_regclass($1) IS NOT NULL", (f"public.{quoted(table)}",)))


_INSPECT = f"""
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


def inspect(target: Target, table: str) -> TargetTableState:
    """The current state of a table in schema ``public`` of the target.

    Raises:
        ShapeError: the name belongs to a relation that is not one plain table.
    """
    found = target.rows(_INSPECT, (f"public.{quoted(table)}",))
    if not found:
        return TargetTableState(exists=False)
    state = json.loads(found[0][0])
    facts = relations.Facts.of(state["facts"])
    relations.require_plain(table, facts)
    columns, constraints = state["columns"], state["constraints"]
    return TargetTableState(
        exists=True,
        rows=target.value(f"SELECT EXISTS (SELECT FROM {quoted(table)})"),
        types={attribute: kind for attribute, kind, _ in columns},
        required=frozenset(attribute for attribute, _, needed in columns if needed),
        primary_key=next((n for n, kind, _ in constraints if kind == "p"), None),
        referenced=state["referenced"],
        constraints=frozenset(n for n, kind, _ in constraints if kind in ("f", "u", "c")),
        not_validated=frozenset(n for n, _, validated in constraints if not validated),
        indexes=frozenset(state["indexes"]),
        facts=facts,
    )


def inspect_for_writing(target: Target, mapping: TableMapping) -> TargetTableState:
    """The current state of a table in the target, which must be writable.

    Raises:
        ShapeError: it is not one plain table, or does not store values exactly as written.
    """
    present = inspect(target, mapping.name)
    if present.facts is not None:
        columns = [column.name for column in mapping.columns]
        relations.require_writable(mapping.name, present.facts, columns=columns)
    return present


def check_shape(mapping: TableMapping, present: TargetTableState) -> None:
    """Refuse an existing table whose columns differ from the declaration.

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
    wrong += [f"{name} is required but not declared" for name in present.required - declared]
    if wrong:
        raise ShapeError(
            f"Table {mapping.name} of the target has a different shape: {'; '.join(sorted(wrong))}",
            remedy="Rename or drop that table, or set DATABASE_URL to another database",
        )


def prepare(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL that creates the table, or adds the columns that it lacks."""
    if not present.exists:
        return [*_create(mapping)]
    types = present.types or {}
    return [
        f"ALTER TABLE {quoted(mapping.name)} ADD COLUMN {compiled(CreateColumn(column))}"
        for column in mapping.table.columns
        if column.name not in types
    ]


def strip(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL that drops keys and indexes of an empty table, except a referenced primary key."""
    if not present.exists:
        return []
    name = quoted(mapping.name)
    foreign = {key.name for key in _foreign_keys(mapping.table)} & present.constraints
    # A unique constraint would check each row on arrival; duplicates are found afterwards.
    foreign |= {unique.name for unique in unique_constraints(mapping.table)} & present.constraints
    own = {index.name for index in mapping.table.indexes} & present.indexes
    drops = [
        f"ALTER TABLE {name} DROP CONSTRAINT {quoted(str(key))}"
        for key in sorted(map(str, foreign))
    ]
    drops += [f"DROP INDEX {quoted(str(index))}" for index in sorted(map(str, own))]
    if present.primary_key and not present.referenced:
        drops.append(f"ALTER TABLE {name} DROP CONSTRAINT {quoted(present.primary_key)}")
    return drops


def foreign_keys(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL for the foreign keys that are missing or were never validated."""
    missing, name = [], quoted(mapping.name)
    for key in _foreign_keys(mapping.table):
        if key.name not in present.constraints:
            missing.append(compiled(AddConstraint(key, isolate_from_table=False)))
        elif key.name in present.not_validated:
            missing.append(f"ALTER TABLE {name} VALIDATE CONSTRAINT {quoted(str(key.name))}")
    return missing


def keys(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL for the missing primary key and other missing constraints."""
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


def indexes(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL for the missing indexes."""
    return [
        compiled(CreateIndex(index))
        for index in sorted(mapping.table.indexes, key=lambda index: str(index.name))
        if index.name not in present.indexes
    ]


def make_ledger(target: Target) -> None:
    """Create the missing tables of the ledger."""
    tables = ledger.metadata.sorted_tables
    existing = target.value(
        "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)"
        " AND relname = ANY($2) AND relkind = 'r'",
        (ledger.SCHEMA, [table.name for table in tables]),
    )
    if existing < len(tables):
        target.run(*ledger_ddl())
        access.hide(target)


def ledger_ddl() -> list[str]:
    """DDL of the ledger; it does not change existing tables."""
    tables = (CreateTable(table, if_not_exists=True) for table in ledger.metadata.sorted_tables)
    return [f"CREATE SCHEMA IF NOT EXISTS {ledger.SCHEMA}", *map(compiled, tables)]


def whole(mapping: TableMapping) -> list[str]:
    """DDL of a new table with its keys, indexes and triggers, but without their functions."""
    absent = TargetTableState(exists=False)
    return [
        *prepare(mapping, absent),
        *keys(mapping, absent),
        *foreign_keys(mapping, absent),
        *indexes(mapping, absent),
        *table_functions.triggers_ddl(mapping.table),
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


def unique_constraints(table: sa.Table) -> list[sa.UniqueConstraint]:
    """The declared unique constraints, in order of their names."""
    found = (each for each in table.constraints if isinstance(each, sa.UniqueConstraint))
    return sorted(found, key=lambda unique: str(unique.name))


def _foreign_keys(table: sa.Table) -> list[sa.ForeignKeyConstraint]:
    return sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
