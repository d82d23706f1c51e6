"""The kind of relation behind a table name in the target. Only plain tables are accepted.

PostgreSQL reads and deletes the rows of child tables together with those of their parent, views and
partitioned tables have no rows of their own, and policies may hide rows. Reading or writing such a
relation would affect other rows than those of the table, so it is refused before anything changes.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import quoted
from pipeline.postgres.driver.statements import Ask, Question, Rows
from pipeline.postgres.target import Target

PUBLIC = "public"

FACTS = """json_build_object(
  'kind', c.relkind,
  'is_partition', c.relispartition,
  'unlogged', c.relpersistence = 'u',
  'hidden_from', CASE WHEN c.relkind = 'r' AND row_security_active(c.oid) THEN current_user END,
  'children', (SELECT coalesce(
    json_agg(format('%I.%I', s.nspname, r.relname) ORDER BY r.relname), '[]')
    FROM pg_inherits AS i JOIN pg_class AS r ON r.oid = i.inhrelid
    JOIN pg_namespace AS s ON s.oid = r.relnamespace WHERE i.inhparent = c.oid),
  'parents', (SELECT coalesce(
    json_agg(format('%I.%I', s.nspname, r.relname) ORDER BY r.relname), '[]')
    FROM pg_inherits AS i JOIN pg_class AS r ON r.oid = i.inhparent
    JOIN pg_namespace AS s ON s.oid = r.relnamespace WHERE i.inhrelid = c.oid),
  'rules', (SELECT coalesce(json_agg(rulename ORDER BY rulename), '[]') FROM pg_rewrite
    WHERE ev_class = c.oid AND ev_type <> '1' AND ev_enabled <> 'D'),
  'computed', (SELECT coalesce(json_agg(attname ORDER BY attnum), '[]') FROM pg_attribute
    WHERE attrelid = c.oid AND attgenerated <> '' AND NOT attisdropped),
  'deferrable_key', (SELECT conname FROM pg_constraint
    WHERE conrelid = c.oid AND contype = 'p' AND condeferrable),
  'extension', (SELECT extname FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass)
)"""
"""SQL that returns ``Facts`` as JSON for a row ``c`` of ``pg_class``."""

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "a partitioned table",
    "S": "a sequence",
}


@dataclass(frozen=True)
class Facts:
    """What the catalog records about a relation.

    Attributes:
        kind: as in ``pg_class.relkind``.
        unlogged: the server empties it after a crash.
        hidden_from: the user from whom policies may hide rows, None if they hide nothing.
        children: tables that inherit from it, with their schemas.
        parents: tables that it inherits from, with their schemas.
        rules: names of rules that rewrite INSERT, UPDATE or DELETE.
        computed: generated columns.
        deferrable_key: name of the primary key, if it is deferrable.
    """

    kind: str
    is_partition: bool
    unlogged: bool
    hidden_from: str | None
    children: tuple[str, ...]
    parents: tuple[str, ...]
    rules: tuple[str, ...]
    computed: tuple[str, ...]
    deferrable_key: str | None
    extension: str | None

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Facts":
        """Build from the JSON that ``FACTS`` returns."""
        lists = ("children", "parents", "rules", "computed")
        return cls(**{**found, **{name: tuple(found[name]) for name in lists}})


def inspect(ask: Ask, schema: str, table: str) -> Facts | None:
    """What the catalog records about a relation; None if there is none of this name."""
    name = f"{quoted(schema)}.{quoted(table)}".replace("'", "''")
    found = ask(f"SELECT ({FACTS})::text FROM pg_class AS c WHERE c.oid = to_regclass('{name}')")
    return Facts.of(json.loads(found[0][0])) if found else None


def _shown(schema: str, table: str) -> str:
    """A name for messages, which can be copied into a statement."""
    plain = table.isidentifier() and table.isascii() and table == table.lower()
    return f"{schema}.{table if plain else quoted(table)}"


def require_plain(table: str, facts: Facts, *, schema: str = PUBLIC) -> None:
    """Refuse a relation that is not one plain table.

    Raises:
        ShapeError: names the kind of relation and the remedy.
    """
    name = _shown(schema, table)
    if facts.kind != "r":
        raise ShapeError(
            f"{name} in the target is {_KINDS.get(facts.kind, 'another kind of relation')},"
            " not a table",
            remedy="Rename or drop it",
        )
    if facts.children:
        raise ShapeError(
            f"{name} in the target has child tables ({', '.join(facts.children)}). PostgreSQL reads"
            f" and deletes their rows as rows of {table}",
            remedy=f"Run ALTER TABLE {facts.children[0]} NO INHERIT {name}, then run again",
        )
    if facts.parents:
        parent = facts.parents[0]
        relation, undo = "inherits from", f"ALTER TABLE {name} NO INHERIT {parent}"
        if facts.is_partition:
            relation, undo = "is a partition of", f"ALTER TABLE {parent} DETACH PARTITION {name}"
        raise ShapeError(
            f"{name} in the target {relation} {parent}, so its rows can change through that table",
            remedy=f"Run {undo}, then run again",
        )
    if facts.hidden_from is not None:
        raise ShapeError(
            f"Row level security of {name} in the target may hide rows from the user"
            f" {facts.hidden_from}",
            remedy="Connect as the owner of the table or as a user with BYPASSRLS. If this user is"
            f" the owner, run ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY",
        )


def require_writable(
    table: str, facts: Facts, *, columns: Collection[str], computed: Collection[str] = ()
) -> None:
    """Refuse a table of schema ``public`` that does not store values exactly as written.

    Args:
        columns: those that a move writes.
        computed: existing ones that the server has to compute.

    Raises:
        ShapeError: names the reason and the remedy.
    """
    require_plain(table, facts)
    name = _shown(PUBLIC, table)
    wrong = [column for column in facts.computed if column in columns]
    plain = sorted(set(computed) - set(facts.computed))
    if facts.extension is not None:
        raise ShapeError(
            f"{name} in the target belongs to the extension {facts.extension}",
            remedy="Move the extension to a schema of its own, or set DATABASE_URL to another"
            " database",
        )
    if facts.rules:
        raise ShapeError(
            f"{name} in the target has the rule {facts.rules[0]}, which rewrites INSERT, UPDATE or"
            " DELETE statements",
            remedy="Drop the rule; a trigger can do the same",
        )
    if wrong:
        raise ShapeError(
            f"{name} in the target has generated columns ({', '.join(wrong)}), so the values of"
            " the source cannot be stored there",
            remedy=f"Run ALTER TABLE {name} ALTER COLUMN {wrong[0]} DROP EXPRESSION",
        )
    if plain:
        raise ShapeError(
            f"{name} in the target has ordinary columns ({', '.join(plain)}) that are declared as"
            " generated",
            remedy="Drop them in the target, or declare them without sa.Computed",
        )
    if facts.deferrable_key is not None:
        raise ShapeError(
            f"{name} in the target has a deferrable primary key {facts.deferrable_key}, which"
            " PostgreSQL cannot use to update existing rows",
            remedy="Drop the key and add it again without DEFERRABLE",
        )
    if facts.unlogged:
        raise ShapeError(
            f"{name} in the target is unlogged: the server empties it after a crash",
            remedy=f"Run ALTER TABLE {name} SET LOGGED",
        )


def column_types(target: Target, tables: Sequence[str]) -> dict[str, dict[str, str]]:
    """Types of the columns of existing tables, as PostgreSQL writes them, by table and column."""
    return target.answer(column_types_question(tables))


def column_types_question(tables: Sequence[str]) -> Question[dict[str, dict[str, str]]]:
    """The question for the types of the columns of several tables."""
    return Question(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)"
        " FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
        " AND c.relname = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped",
        (tuple(tables),),
        _by_table,
    )


def _by_table(rows: Rows) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        found.setdefault(table, {})[column] = kind
    return found
