"""The publication ``supabase_realtime``: the declared tables with the declared columns.

PostgreSQL refuses every UPDATE and DELETE of a table that is published with a column list while its
replica identity is FULL, even if the list names all columns. So a table whose old rows are
published has no list, unless it has undeclared columns; then it has a list, and its old rows are
not published.

Tables of migrations that are not declared as published are removed. Tables that no migration
declares are kept, and the check reports them.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import TargetError
from pipeline.core.quoting import quoted
from pipeline.declared import events
from pipeline.postgres.target import Target

NAME = "supabase_realtime"
"""The publication that Supabase Realtime reads."""

OLDEST = 150_000
"""The first version of PostgreSQL with column lists."""

_OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})

_STATE = """
SELECT json_build_object(
  'everything', p.puballtables
    OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid),
  'operations', array_remove(ARRAY[CASE WHEN p.pubinsert THEN 'insert' END,
    CASE WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END,
    CASE WHEN p.pubtruncate THEN 'truncate' END], NULL),
  'tables', (SELECT coalesce(json_agg(json_build_object(
      'schema', n.nspname, 'name', c.relname, 'identity', c.relreplident, 'rows', r.prqual IS NULL,
      'columns', (SELECT json_agg(a.attname ORDER BY a.attname) FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum = ANY(r.prattrs)))), '[]')
    FROM pg_publication_rel AS r JOIN pg_class AS c ON c.oid = r.prrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid)
)::text FROM pg_publication AS p WHERE p.pubname = $1
"""


@dataclass(frozen=True)
class PublishedTable:
    """How a table is published.

    Attributes:
        columns: the column list, sorted; None publishes all.
        identity: ``relreplident``: 'd' publishes keys of old rows, 'f' full old rows.
        rows: whether all rows are published.
    """

    columns: tuple[str, ...] | None
    identity: str
    rows: bool = True


@dataclass(frozen=True)
class State:
    """The present publication.

    Attributes:
        everything: it publishes all tables of the database or of a schema, present and future.
        tables: those in schema public, by name.
        others: names of those in other schemas.
    """

    exists: bool
    everything: bool = False
    operations: frozenset[str] = _OPERATIONS
    tables: dict[str, PublishedTable] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all operations are published."""
        return self.operations == _OPERATIONS


def inspect(target: Target) -> State:
    """The present publication."""
    found = target.rows(_STATE, (NAME,))
    if not found:
        return State(exists=False)
    state: dict[str, Any] = json.loads(found[0][0])
    tables = {
        table["name"]: PublishedTable(
            None if table["columns"] is None else tuple(sorted(table["columns"])),
            table["identity"],
            table["rows"],
        )
        for table in state["tables"]
        if table["schema"] == "public"
    }
    others = sorted(
        f"{t['schema']}.{t['name']}" for t in state["tables"] if t["schema"] != "public"
    )
    return State(True, state["everything"], frozenset(state["operations"]), tables, tuple(others))


def declared(target: Target, tables: Sequence[sa.Table]) -> dict[str, PublishedTable]:
    """How the declared tables have to be published, given their actual columns."""
    return {
        table.name: PublishedTable(None, "f")
        if rules.old_rows and not undeclared(target, table)
        else PublishedTable(tuple(sorted(rules.columns)), "d")
        for table in tables
        if (rules := events.published_changes(table))
    }


def undeclared(target: Target, table: sa.Table) -> list[str]:
    """Columns of a table that are not declared as published."""
    rules = events.published_changes(table)
    found = target.rows(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1)"
        " AND attnum > 0 AND NOT attisdropped AND attname <> ALL($2) ORDER BY 1",
        (f"public.{quoted(table.name)}", list(rules.columns if rules else ())),
    )
    return [name for (name,) in found]


def apply(target: Target, tables: Sequence[sa.Table], *, known: Collection[str]) -> list[str]:
    """Publish the declared tables, in a transaction; matching ones are kept.

    Args:
        target: the session.
        tables: the migration's; all of them exist.
        known: names of the tables of all migrations.

    Returns:
        The changes made, in words.

    Raises:
        TargetError: the server is too old, or the publication covers all tables.
    """
    version = target.value("SELECT current_setting('server_version_num')::int")
    if version < OLDEST:
        raise TargetError(
            f"PostgreSQL {version // 10_000} cannot publish selected columns of a table",
            remedy=f"Upgrade the target to {OLDEST // 10_000} or newer",
        )
    now = inspect(target)
    if now.everything:
        raise TargetError(
            f"The publication {NAME} publishes all tables, including secrets",
            remedy=f"Run DROP PUBLICATION {NAME} in the target, then run again",
        )
    if not now.exists:
        target.run(f"CREATE PUBLICATION {NAME}")
    elif not now.complete:
        target.run(f"ALTER PUBLICATION {NAME} SET (publish = '{', '.join(sorted(_OPERATIONS))}')")
    wanted, done = declared(target, tables), []
    for name in sorted(now.tables):
        if now.tables[name] != wanted.get(name) and (name in wanted or name in known):
            target.run(f"ALTER PUBLICATION {NAME} DROP TABLE public.{quoted(name)}")
            if name not in wanted:
                done.append(f"{name} is no longer published")
    for name, how in wanted.items():
        if now.tables.get(name) != how:
            target.run(*_publish(name, how))
            done.append(f"{name} is published")
    return done


def streamed(target: Target) -> bool:
    """Whether ``wal_level`` allows logical replication, which subscribers of a publication need."""
    return bool(target.value("SELECT current_setting('wal_level') = 'logical'"))


def _publish(name: str, how: PublishedTable) -> list[str]:
    identity = "FULL" if how.identity == "f" else "DEFAULT"
    columns = "" if how.columns is None else f" ({', '.join(map(quoted, how.columns))})"
    return [
        f"ALTER TABLE public.{quoted(name)} REPLICA IDENTITY {identity}",
        f"ALTER PUBLICATION {NAME} ADD TABLE public.{quoted(name)}{columns}",
    ]
