"""Compare the declared schema with the real one, both as PostgreSQL's catalog writes them.

The declared table is created as a temporary table and rolled back, so both definitions come from
the same server and need no parsing.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.findings import Finding
from pipeline.core.quoting import literal, quoted
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres import access, schema, table_functions
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.findings import SchemaDiffers
from pipeline.postgres.target import Target

Definitions = dict[tuple[str, str], str]
"""(kind, name) -> definition; kinds are column, constraint, index and trigger."""

_DEFINITIONS = """
SELECT 'column' AS kind, attname::text AS name, format_type(atttypid, atttypmod)
  || CASE WHEN attcollation <> typcollation THEN ' COLLATE ' || c.collname ELSE '' END
  || CASE WHEN NOT attnotnull THEN '' WHEN n.convalidated IS FALSE THEN ' NOT NULL NOT VALID'
     ELSE ' NOT NULL' END
  || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid, true), '') AS definition
  FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = atttypid
  LEFT JOIN pg_collation AS c ON c.oid = attcollation
  LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
  LEFT JOIN pg_constraint AS n ON n.conrelid = attrelid AND n.contype = 'n'
    AND n.conkey = ARRAY[attnum]
  WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint', conname::text, pg_get_constraintdef(oid, true)
  FROM pg_constraint WHERE conrelid = {oid} AND contype IN ('p', 'f', 'u', 'c')
UNION ALL
SELECT 'index', c.relname::text, pg_get_indexdef(c.oid, 0, true)
  || CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' NOT VALID' END
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
  WHERE i.indrelid = {oid}
UNION ALL
SELECT 'trigger', t.* FROM ({triggers}) AS t
"""


def questions(mapping: TableMapping) -> tuple[Question[Any], ...]:
    """The questions of ``check`` about the existing table."""
    return (
        definitions_question(mapping),
        access.ROLES_QUESTION,
        *table_functions.questions(mapping.table),
    )


def check(target: Target, mapping: TableMapping) -> tuple[Sequence[Finding], dict[str, int]]:
    """Columns, types, defaults, constraints, indexes, triggers and their functions are as declared.

    Additional objects of the target are counted, and are no finding.

    Args:
        target: a session within a transaction.
        mapping: the declared table with what is carried along.
    """
    actual = target.answer(definitions_question(mapping))
    there = access.roles(target)
    other = table_functions.differing(target, mapping.table, there)
    with target.rolled_back():
        declared = _declared(target, mapping, there)
        restored = _restored(target, mapping, declared)
    if not actual:
        findings = [SchemaDiffers(mapping.name, "table", mapping.name, "a table", None)]
    else:
        findings = [
            SchemaDiffers(mapping.name, kind, name, expected, actual.get((kind, name)))  # type: ignore[arg-type]
            for (kind, name), expected in sorted(declared.items())
            if actual.get((kind, name)) not in (expected, restored[kind, name])
        ]
        findings += [
            SchemaDiffers(
                mapping.name,
                "function",
                f.call,
                "the declared one",
                "another" if is_there else None,
            )
            for f, is_there in other.items()
        ]
    return (
        findings,
        {
            "declared": len(declared) + len(table_functions.table_functions(mapping.table, there)),
            "differing": len(findings),
            "more": len(set(actual) - set(declared)),
        },
    )


def definitions_question(mapping: TableMapping, *, schema: str = "public") -> Question[Definitions]:
    """The question for the definitions of a table; there are none if it does not exist."""
    oid = f"to_regclass({literal(f'{schema}.{quoted(mapping.name)}')})"
    triggers = table_functions.TRIGGERS.format(oid=oid)
    return Question(
        _DEFINITIONS.format(oid=oid, triggers=triggers),
        (),
        lambda rows: {(kind, name): definition for kind, name, definition in rows},
    )


def _declared(target: Target, mapping: TableMapping, server_roles: Sequence[str]) -> Definitions:
    table_functions.make_functions(target, mapping.table, server_roles)
    parents = {parent.name: parent for _, parent in mapping.parents}.values()
    target.run(
        "SET LOCAL search_path = pg_temp, public",
        *(_stub(parent) for parent in parents if parent is not mapping.table),
        *schema.whole(mapping),
    )
    return target.answer(definitions_question(mapping, schema="pg_temp"))


def _restored(target: Target, mapping: TableMapping, declared: Definitions) -> Definitions:
    """The declared table after a dump and a restore, or an upgrade of the server.

    PostgreSQL writes a CHECK with other casts once it has parsed its own text.
    """
    table = f"pg_temp.{quoted(mapping.name)}"
    again = [
        f"ALTER TABLE {table} DROP CONSTRAINT {quoted(name)}, ADD CONSTRAINT {quoted(name)} {text}"
        for (kind, name), text in declared.items()
        if kind == "constraint" and text.startswith("CHECK")
    ]
    if not again:
        return declared
    target.run(*again)
    return target.answer(definitions_question(mapping, schema="pg_temp"))


def _stub(parent: sa.Table) -> str:
    key = RowKey.of(parent).column
    return (
        f"CREATE TABLE {quoted(parent.name)} ({quoted(key.name)} {type_name(key.type)} PRIMARY KEY)"
    )
