"""The feed's objects in the target: schema, tables, functions and triggers, created as declared.

Triggers fire once for each statement and write a row of ``feed.changes`` for each changed row, in
the same transaction. They ignore the statements of a move before they read any row. Tables whose
rows lead others to their space have another trigger, before each deleted row (see ``topics``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from pipeline.core.errors import TargetError
from pipeline.core.messages import MIGRATE, message
from pipeline.core.quoting import quoted
from pipeline.declared import events, feed, trigger_prefixes
from pipeline.postgres import access, schema
from pipeline.postgres.schema import compiled
from pipeline.postgres.target import Target
from pipeline.realtime import topics
from pipeline.realtime.functions import SEND, functions
from pipeline.realtime.sql_function import Function
from pipeline.realtime.topics import qualified

SENDER = "service_role"
"""The role besides the owner that may call ``feed.send``. It can send to any topic for any user, so
only the application's server may call it; users send through channels, where policies apply."""

_BITS: dict[str, int] = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
"""Bits of ``pg_trigger.tgtype``, for triggers that fire once after a statement."""
_LEAVES = 1 | 2 | _BITS["DELETE"] | _BITS["UPDATE"]
"""For a trigger that fires before each row that is deleted or updated."""


_REMOVE_FOREIGN = """
DELETE FROM feed.fleeting WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());
DELETE FROM feed.former WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());
WITH gone AS (
  DELETE FROM feed.changes WHERE (SELECT max(c.xid) FROM feed.changes AS c)
    >= pg_snapshot_xmax(pg_current_snapshot()) RETURNING 1)
UPDATE feed.horizon SET epoch = gen_random_uuid(), pruned = NULL
  WHERE EXISTS (SELECT FROM gone) OR pruned > pg_snapshot_xmax(pg_current_snapshot())"""
"""Remove rows that a dump brought from another server: their transactions are in the future."""


@dataclass(frozen=True)
class Trigger:
    """A trigger of the feed.

    Attributes:
        kind: ``pg_trigger.tgtype``.
        key: the column whose updates fire it; empty if it fires after each statement.
        enabled: ``pg_trigger.tgenabled``.
    """

    table: str
    name: str
    function: str
    kind: int
    before: str | None = None
    after: str | None = None
    key: str = ""
    enabled: str = "O"

    @property
    def ddl(self) -> str:
        """The statement that creates it."""
        if self.key:
            return (
                f"CREATE TRIGGER {self.name} BEFORE DELETE OR UPDATE OF {quoted(self.key)}"
                f" ON {self.table} FOR EACH ROW EXECUTE FUNCTION {self.function}()"
            )
        operation = next(name for name, bit in _BITS.items() if bit == self.kind)
        images = f" OLD TABLE AS {self.before}" if self.before else ""
        images += f" NEW TABLE AS {self.after}" if self.after else ""
        referencing = f" REFERENCING{images}" if images else ""
        return (
            f"CREATE TRIGGER {self.name} AFTER {operation} ON {self.table}{referencing}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {self.function}()"
        )


def published_tables(tables: Sequence[sa.Table]) -> list[sa.Table]:
    """The tables whose changes are published."""
    return [table for table in tables if events.published_changes(table)]


def triggers(tables: Sequence[sa.Table]) -> list[Trigger]:
    """All triggers of the feed for these tables."""
    declared = [
        Trigger(
            "feed.changes",
            f"{trigger_prefixes.FEED}tell",
            "feed.tell",
            _BITS["INSERT"],
            after="made",
        )
    ]
    for table in published_tables(tables):
        name, function = qualified(table), f"feed.{quoted(f'note_{table.name}')}"
        for operation, before, after in (
            ("INSERT", None, "after"),
            ("UPDATE", "before", "after"),
            ("DELETE", "before", None),
        ):
            trigger = f"{trigger_prefixes.FEED}{operation.lower()}"
            declared.append(Trigger(name, trigger, function, _BITS[operation], before, after))
        declared.append(
            Trigger(name, f"{trigger_prefixes.FEED}truncate", "feed.begin_anew", _BITS["TRUNCATE"])
        )
    for step in topics.parents(tables):
        table = step.parent
        function = f"feed.{quoted(f'leave_{table.name}')}"
        name, key = f"{trigger_prefixes.FEED}leave", step.key.name
        declared.append(Trigger(qualified(table), name, function, _LEAVES, key=key))
        if any(topics.below(table, tables)) and not events.published_changes(table):
            name, function = (
                f"{trigger_prefixes.FEED}update",
                f"feed.{quoted(f'note_{table.name}')}",
            )
            kind = _BITS["UPDATE"]
            declared.append(Trigger(qualified(table), name, function, kind, "before", "after"))
    return declared


def apply(target: Target, tables: Sequence[sa.Table]) -> int:
    """Create the feed as declared, in a transaction; matching triggers are kept.

    Returns:
        The number of triggers created.

    Raises:
        TargetError: a table does not exist.
    """
    require_tables(target, tables)
    target.run("; ".join(_storage(target)))
    target.run(_REMOVE_FOREIGN)
    target.run("; ".join(function.ddl for function in functions(tables)))
    declared, present = triggers(tables), inspect(target)
    missing = [trigger for trigger in declared if trigger not in present]
    for trigger in present:
        if trigger not in declared:
            target.run(f"DROP TRIGGER {trigger.name} ON {trigger.table}")
    target.run("; ".join([*(trigger.ddl for trigger in missing), *_rights(access.roles(target))]))
    return len(missing)


def require_tables(target: Target, tables: Sequence[sa.Table]) -> None:
    """Refuse a target without all the tables.

    Raises:
        TargetError: names the missing tables.
        ShapeError: a name belongs to something other than one plain table.
    """
    missing = [t.name for t in tables if not schema.inspect(target, t.name).exists]
    if missing:
        raise TargetError(
            f"The target has no table {', '.join(missing)} yet, so its changes cannot be published",
            remedy=message("Run ", MIGRATE, " first"),
        )


def exists(target: Target) -> bool:
    """Whether the target has a feed."""
    return bool(target.value("SELECT to_regclass('feed.changes') IS NOT NULL"))


def inspect(target: Target) -> list[Trigger]:
    """The feed's triggers in the target."""
    found = target.rows(
        "SELECT CASE WHEN n.nspname = 'feed' THEN 'feed.changes' ELSE"
        " format('public.\"%s\"', replace(c.relname, '\"', '\"\"')) END, t.tgname::text,"
        " p.proname::text, t.tgtype::int, t.tgoldtable::text, t.tgnewtable::text,"
        " coalesce((SELECT string_agg(a.attname::text, ',') FROM pg_attribute AS a"
        " WHERE a.attrelid = t.tgrelid AND a.attnum = ANY(t.tgattr)), ''),"
        " t.tgenabled::text FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_proc AS p ON p.oid = t.tgfoid"
        " WHERE starts_with(t.tgname::text, $1) AND p.pronamespace = to_regnamespace('feed')"
        " ORDER BY 1, 2",
        (trigger_prefixes.FEED,),
    )
    return [
        Trigger(table, name, _function_name(function), *rest)
        for table, name, function, *rest in found
    ]


def differing(target: Target, wanted: Sequence[Function]) -> Iterator[tuple[Function, str]]:
    """Functions that are not as declared, with the reason."""
    found = target.rows(
        "SELECT s, prosrc, prosecdef, coalesce(array_to_string(proconfig, ';'), '')"
        " FROM unnest($1::text[]) AS s JOIN pg_proc AS p ON p.oid = to_regprocedure(s)",
        ([function.signature for function in wanted],),
    )
    existing = {signature: tuple(rest) for signature, *rest in found}
    for function in wanted:
        actual = existing.get(function.signature)
        if actual != (function.body, True, 'search_path=""'):
            yield function, "missing" if actual is None else "not as declared"


def _storage(target: Target) -> Iterator[str]:
    """DDL of the missing schema and tables; feeds of earlier versions lack some."""
    if not target.value("SELECT to_regnamespace($1) IS NOT NULL", (feed.SCHEMA,)):
        yield f"CREATE SCHEMA {feed.SCHEMA}"
    for table in feed.metadata.sorted_tables:
        if not target.value("SELECT to_regclass($1) IS NOT NULL", (f"feed.{table.name}",)):
            yield compiled(CreateTable(table))
            yield from (compiled(CreateIndex(index)) for index in table.indexes)
    yield "INSERT INTO feed.horizon DEFAULT VALUES ON CONFLICT DO NOTHING"


def _rights(roles: Sequence[str]) -> Iterator[str]:
    yield from access.hiding(feed.SCHEMA, roles)
    who = ", ".join(["PUBLIC", *map(quoted, roles)])
    yield f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {feed.SCHEMA} FROM {who}"
    if SENDER in roles:
        yield f"GRANT USAGE ON SCHEMA {feed.SCHEMA} TO {SENDER}"
        yield f"GRANT EXECUTE ON FUNCTION {SEND} TO {SENDER}"


def _function_name(name: str) -> str:
    return f"feed.{quoted(name) if name.startswith(('note_', 'leave_')) else name}"
