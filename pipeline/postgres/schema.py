"""DDL of the target, compiled from the declarations, and the current state of its tables.

Missing or empty tables are loaded first; keys and indexes follow, which is four times faster. DDL
is transactional, so no other session sees the table without them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import AddConstraint, CreateColumn, CreateIndex, CreateTable

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import literal, quoted
from pipeline.declared import ledger
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.casts import carried
from pipeline.mapping.casts.types import DIALECT, type_name
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres import access, relations, table_functions
from pipeline.postgres.driver.statements import Question, single
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
    return target.answer(exists_question(table))


def exists_question(table: str) -> Question[bool]:
    """The question whether schema ``public`` of the target has a relation of this name."""
    place = (f"public.{quoted(table)}",)
    return Question("SELECT to_regclass($1) IS NOT NULL AS found", place, single)


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
  'referenced', EXISTS (SELECT FROM pg_constraint WHERE confrelid = c.oid AND contype = 'f'),
  'bytes', CASE c.relkind WHEN 'r' THEN pg_relation_size(c.oid) END
) AS state FROM pg_class AS c WHERE oid = to_regclass($1)
"""


def state_question(table: str) -> Question[Any]:
    """The question for the state of a table, to prefetch it for ``inspect``."""
    return Question(_INSPECT, (f"public.{quoted(table)}",), lambda rows: rows[0][0] if rows else {})


def inspect(target: Target, table: str, *, rows: bool = True) -> TargetTableState:
    """The current state of a table in schema ``public`` of the target.

    Args:
        rows: find out whether it has rows, which needs another round trip if it has a page.

    Raises:
        ShapeError: the name belongs to a relation that is not one plain table.
    """
    state = target.answer(state_question(table))
    if not state:
        return TargetTableState(exists=False)
    facts = relations.Facts.of(state["facts"])
    relations.require_plain(table, facts)
    columns, constraints = state["columns"], state["constraints"]
    return TargetTableState(
        exists=True,
        # A file without a page has no rows.
        rows=rows and state["bytes"] > 0 and target.answer(_has_rows_question(table)),
        types={attribute: kind for attribute, kind, _ in columns},
        required=frozenset(attribute for attribute, _, needed in columns if needed),
        primary_key=next((n for n, kind, _ in constraints if kind == "p"), None),
        referenced=state["referenced"],
        constraints=frozenset(n for n, kind, _ in constraints if kind in ("f", "u", "c")),
        not_validated=frozenset(n for n, _, validated in constraints if not validated),
        indexes=frozenset(state["indexes"]),
        facts=facts,
    )


@contextmanager
def inspected(target: Target, tables: Sequence[str]) -> Iterator[None]:
    """Inspect several tables in two round trips; inside, ``inspect`` needs none."""
    with target.prefetched(*map(state_question, tables)):
        states = {table: target.answer(state_question(table)) for table in tables}
        readable = {t: s for t, s in states.items() if s and s["facts"]["hidden_from"] is None}
        filled = [table for table, state in readable.items() if state["bytes"]]
        with target.prefetched(*map(_has_rows_question, filled)):
            yield


def count_question(table: str) -> Question[int]:
    """The question for the number of all rows."""
    return Question(f"SELECT count(*) AS rows FROM {quoted(table)}", (), single)


def _has_rows_question(table: str) -> Question[bool]:
    return Question(f"SELECT EXISTS (SELECT FROM {quoted(table)}) AS found", (), single)


def lock(target: Target, table: str) -> None:
    """Lock a table against other writers, before the next statement; the name may have none."""
    place = f"public.{quoted(table)}"
    target.defer(
        f"DO $lock$ BEGIN IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass({literal(place)})"
        f" AND relkind = 'r') THEN LOCK TABLE ONLY {place} IN SHARE ROW EXCLUSIVE MODE; END IF; END"
        " $lock$"
    )


def inspect_for_writing(
    target: Target, mapping: TableMapping, *, rows: bool = True
) -> TargetTableState:
    """The current state of a table in the target, which must be writable; see ``inspect``.

    Raises:
        ShapeError: it is not one plain table, or does not store values exactly as written.
    """
    present = inspect(target, mapping.name, rows=rows)
    if present.facts is not None:
        written, computed = mapping.written, (present.types or {}).keys() & mapping.computed
        relations.require_writable(mapping.name, present.facts, columns=written, computed=computed)
    return present


def check_shape(
    mapping: TableMapping, present: TargetTableState, *, widening: bool = False
) -> None:
    """Refuse an existing table whose columns differ from the declaration.

    Args:
        widening: types of carried columns may change, as ``prepare`` does.

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
        elif widening and column.name in mapping.carried:
            continue
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
    types, alter = present.types or {}, f"ALTER TABLE {quoted(mapping.name)}"
    statements = [
        f"{alter} ADD COLUMN {compiled(CreateColumn(column))}"
        for column in mapping.table.columns
        if column.name not in types
    ]
    for column in mapping.table.columns:
        before, now = types.get(column.name), type_name(column.type)
        if column.name in mapping.carried and before not in (None, now):
            name = quoted(column.name)
            value = carried.conversion(name, column.type, before or "")
            statements.append(f"{alter} ALTER COLUMN {name} TYPE {now} USING {value}")
    return statements


def created(mapping: TableMapping) -> TargetTableState:
    """The state of a table that ``prepare`` has just created."""
    checks = (each for each in mapping.table.constraints if isinstance(each, sa.CheckConstraint))
    return TargetTableState(exists=True, constraints=frozenset(str(c.name) for c in checks))


def strip(mapping: TableMapping, present: TargetTableState) -> list[str]:
    """DDL that drops keys and indexes of an empty table, except a referenced primary key."""
    if not present.exists:
        return []
    name = quoted(mapping.name)
    foreign = {key.name for key in _foreign_keys(mapping.table)} & present.constraints
    # A unique constraint would check each row on arrival; duplicates are found later.
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


def foreign_keys(mapping: TableMapping, present: TargetTableState, *, to_itself: bool) -> list[str]:
    """DDL for the foreign keys that are missing or were never validated.

    Args:
        to_itself: those to the table's own key, which must exist; otherwise all others.
    """
    missing, name = [], quoted(mapping.name)
    for key in _foreign_keys(mapping.table):
        if (key.referred_table.name == mapping.table.name) is not to_itself:
            continue
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
    if not target.answer(ledger_question()):
        # Copies to different schemas may begin at the same time.
        target.run("SELECT pg_advisory_xact_lock(5137904266011438207)", *ledger_ddl())
        access.hide(target)


def ledger_question() -> Question[bool]:
    """The question whether the ledger has all of its tables."""
    tables = ledger.metadata.sorted_tables
    return Question(
        "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)"
        " AND relname = ANY($2) AND relkind = 'r'",
        (ledger.SCHEMA, tuple(table.name for table in tables)),
        lambda rows: bool(rows[0][0] == len(tables)),
    )


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
        *foreign_keys(mapping, absent, to_itself=False),
        *foreign_keys(mapping, absent, to_itself=True),
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
