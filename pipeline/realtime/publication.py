"""What ``supabase_realtime`` publishes: the declared tables with the declared columns.

PostgreSQL refuses every UPDATE and DELETE of a table that is published with a list of columns while
its replica identity is FULL, even if the list names all of them. So a table whose old rows are told
is published without a list, as long as it has no column that is not declared; one that has is
published with the list, and its old rows are not told.

Tables of the migrations that are not told are taken out. Tables that no migration declares were
published by somebody else: they stay, and are found by the check.
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
"""The publication that Supabase's Realtime reads."""

OLDEST = 150_000
"""Lists of columns came with PostgreSQL 15."""

_OPERATIONS = frozenset({"insert", "update", "delete", "truncate"})

_LOOK = """
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
class Published:
    """How a table is published.

    Attributes:
        columns: the list of columns, sorted; None publishes all.
        identity: ``relreplident``: 'd' tells keys of old rows, 'f' whole ones.
        rows: whether all rows are published.
    """

    columns: tuple[str, ...] | None
    identity: str
    rows: bool = True


@dataclass(frozen=True)
class State:
    """The publication as it is.

    Attributes:
        exists: whether there is one.
        everything: it publishes all tables, or all of a schema, now and later.
        operations: which changes are published.
        tables: those of schema public, by name.
        others: names of those of other schemas.
    """

    exists: bool
    everything: bool = False
    operations: frozenset[str] = _OPERATIONS
    tables: dict[str, Published] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether changes of all kinds are published."""
        return self.operations == _OPERATIONS


def inspect(target: Target) -> State:
    """The publication as it is."""
    found = target.rows(_LOOK, (NAME,))
    if not found:
        return State(exists=False)
    told: dict[str, Any] = json.loads(found[0][0])
    tables = {
        table["name"]: Published(
            None if table["columns"] is None else tuple(sorted(table["columns"])),
            table["identity"],
            table["rows"],
        )
        for table in told["tables"]
        if table["schema"] == "public"
    }
    others = sorted(f"{t['schema']}.{t['name']}" for t in told["tables"] if t["schema"] != "public")
    return State(True, told["everything"], frozenset(told["operations"]), tables, tuple(others))


def declared(target: Target, tables: Sequence[sa.Table]) -> dict[str, Published]:
    """How the tables are to be published that are told, given the columns that they have."""
    return {
        table.name: Published(None, "f")
        if told.old_rows and not undeclared(target, table)
        else Published(tuple(sorted(told.columns)), "d")
        for table in tables
        if (told := events.of_table(table))
    }


def undeclared(target: Target, table: sa.Table) -> list[str]:
    """Columns that a table has and that are not told."""
    told = events.of_table(table)
    found = target.rows(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1)"
        " AND attnum > 0 AND NOT attisdropped AND attname <> ALL($2) ORDER BY 1",
        (f"public.{quoted(table.name)}", list(told.columns if told else ())),
    )
    return [name for (name,) in found]


def apply(target: Target, tables: Sequence[sa.Table], *, known: Collection[str]) -> list[str]:
    """Publish what is declared, in a transaction; what is as declared is not touched.

    Args:
        target: the session.
        tables: the migration's; all of them are there.
        known: names of the tables of all migrations.

    Returns:
        What was changed, in words.

    Raises:
        TargetError: the server is too old, or the publication holds whatever there is.
    """
    version = target.value("SELECT current_setting('server_version_num')::int")
    if version < OLDEST:
        raise TargetError(
            f"PostgreSQL {version // 10_000} cannot publish chosen columns of a table",
            remedy=f"Upgrade the target to {OLDEST // 10_000} or newer",
        )
    now = inspect(target)
    if now.everything:
        raise TargetError(
            f"The publication {NAME} publishes every table there is, secrets included",
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
                done.append(f"{name} is not published any more")
    for name, how in wanted.items():
        if now.tables.get(name) != how:
            target.run(*_publish(name, how))
            done.append(f"{name} is published")
    return done


def streamed(target: Target) -> bool:
    """Whether the server writes what subscribers of a publication need."""
    return bool(target.value("SELECT current_setting('wal_level') = 'logical'"))


def _publish(name: str, how: Published) -> list[str]:
    identity = "FULL" if how.identity == "f" else "DEFAULT"
    columns = "" if how.columns is None else f" ({', '.join(map(quoted, how.columns))})"
    return [
        f"ALTER TABLE public.{quoted(name)} REPLICA IDENTITY {identity}",
        f"ALTER PUBLICATION {NAME} ADD TABLE public.{quoted(name)}{columns}",
    ]
