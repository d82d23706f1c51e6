"""The feed's objects in the target: schema, tables, functions and triggers, made as declared.

Triggers fire once for each statement and write a row of ``feed.changes`` for each row that somebody
changed, in the same transaction. They do nothing where a move writes, which is decided before any
row is looked at. Their functions run as who made them, with a search path that nobody can bend, so
whoever may write a table may do so without a right on the feed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from pipeline.move import access
from pipeline.move.contract import quoted
from pipeline.move.errors import TargetError
from pipeline.move.schema import compiled
from pipeline.move.target import MOVING, Target
from pipeline.tables import events, feed
from pipeline.tables.events import FLEETING, Occurs, Operation, Told

PREFIX = "pipeline_feed_"
"""How the names of the triggers begin."""

CANARY = "pipeline.canary"
"""The setting by which a move's writes are told all the same; capture takes them for a move's."""

SPEAKER = "service_role"
"""Who besides the owner may call ``feed.send``: it speaks to any topic in anybody's name, which is
for the application's server alone. People speak through channels, where policies know them."""

SEND = "feed.send(text,text,jsonb)"
FULL_QUEUE = 0.5
"""Beyond this share of its queue NOTIFY is left out: a full one fails the transactions that use it.
Who listens finds the changes when it looks by itself."""
MOST_TOLD = 50
"""A broadcast names so many changes; who needs more reads the feed."""
NOTIFY_BYTES = 7900
"""NOTIFY carries less than 8,000 bytes."""

_BITS: dict[str, int] = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
"""Of ``pg_trigger.tgtype``, for triggers of a statement that fire after it."""


@dataclass(frozen=True)
class Function:
    """A function of the feed.

    Attributes:
        signature: name and types of arguments, as ``to_regprocedure`` reads them.
        head: name and arguments with their names.
        returns: its type.
        body: what PostgreSQL keeps as ``prosrc``.
        language: of the body.
    """

    signature: str
    head: str
    returns: str
    body: str
    language: str = "plpgsql"

    @property
    def ddl(self) -> str:
        """The statement that makes it."""
        stable = " STABLE" if self.language == "sql" else ""
        return (
            f"CREATE OR REPLACE FUNCTION {self.head} RETURNS {self.returns} LANGUAGE"
            f" {self.language}{stable} SECURITY DEFINER SET search_path = '' AS $body${self.body}"
            "$body$"
        )


@dataclass(frozen=True)
class Trigger:
    """A trigger of the feed, after each statement; ``enabled`` is as in ``pg_trigger``."""

    table: str
    name: str
    function: str
    kind: int
    before: str | None = None
    after: str | None = None
    enabled: str = "O"

    @property
    def ddl(self) -> str:
        """The statement that makes it."""
        operation = next(name for name, bit in _BITS.items() if bit == self.kind)
        images = f" OLD TABLE AS {self.before}" if self.before else ""
        images += f" NEW TABLE AS {self.after}" if self.after else ""
        referencing = f" REFERENCING{images}" if images else ""
        return (
            f"CREATE TRIGGER {self.name} AFTER {operation} ON {self.table}{referencing}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {self.function}()"
        )


_TELL = Function(
    "feed.tell()",
    "feed.tell()",
    "trigger",
    f"""
DECLARE
  told record;
BEGIN
  FOR told IN
    SELECT m.topic, max(m.id) AS version, count(*) > {MOST_TOLD} AS more,
        jsonb_agg(jsonb_build_object('id', m.id, 'table', m.table_name, 'operation', m.operation,
          'key', m.key, 'event', m.event) ORDER BY m.id)
          FILTER (WHERE m.number <= {MOST_TOLD} AND m.table_name IS NOT NULL) AS changes
      FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY id) AS number FROM made) AS m
      GROUP BY m.topic ORDER BY m.topic
  LOOP
    IF pg_notification_queue_usage() <= {FULL_QUEUE} THEN
      PERFORM pg_notify('{feed.CHANNEL}', told.topic);
    END IF;
    IF told.changes IS NOT NULL THEN
      PERFORM feed.broadcast(told.topic, 'changes', jsonb_build_object(
        'version', told.version, 'changes', told.changes, 'more', told.more));
    END IF;
  END LOOP;
  RETURN NULL;
END
""",
)

# realtime.send and not realtime.broadcast_changes: the latter sends whole rows, one by one, with
# columns that are not told, and raises when it fails, which would fail the application's write.
_BROADCAST = Function(
    "feed.broadcast(text,text,jsonb)",
    "feed.broadcast(topic text, event text, payload jsonb)",
    "void",
    """
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_proc AS p
      WHERE p.proname = 'send' AND p.pronamespace = (
        SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'realtime')) THEN
    RETURN;
  END IF;
  BEGIN
    PERFORM realtime.send(payload, event, topic, true);
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'feed: % was not broadcast to %: %', event, topic, SQLERRM;
  END;
END
""",
)

_SEND = Function(
    SEND,
    "feed.send(topic text, event text, payload jsonb)",
    "void",
    f"""
DECLARE
  said text := jsonb_build_object('topic', topic, 'event', event, 'payload', payload)::text;
BEGIN
  IF (topic ~ '^(space|user):-?[0-9]{{1,18}}$'
      AND event IN ({", ".join(f"'{event}'" for event in FLEETING)})) IS NOT TRUE THEN
    RAISE EXCEPTION 'feed.send takes a topic like space:1 or user:1, and {" or ".join(FLEETING)}'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF topic LIKE 'space:%' AND EXISTS (SELECT FROM public.spaces AS s
      WHERE s.id = substr(topic, 7)::bigint AND NOT s.enable_realtime) THEN
    RETURN;
  END IF;
  IF octet_length(said) <= {NOTIFY_BYTES} AND pg_notification_queue_usage() <= {FULL_QUEUE} THEN
    PERFORM pg_notify('{feed.CHANNEL}', said);
  ELSE
    INSERT INTO feed.changes (topic, event, payload) VALUES (topic, event, payload);
  END IF;
  PERFORM feed.broadcast(topic, event, payload);
END
""",
)

# A bounded number of the oldest is looked at, whatever there is, so that it always ends soon.
_PRUNE = Function(
    "feed.prune(interval,integer)",
    "feed.prune(keep interval, most integer)",
    "bigint",
    """
DECLARE
  gone bigint;
  newest bigint;
BEGIN
  WITH oldest AS (
    SELECT c.id, c.at FROM feed.changes AS c ORDER BY c.id LIMIT most
  ), removed AS (
    DELETE FROM feed.changes AS c USING oldest AS o
      WHERE c.id = o.id AND o.at < now() - keep RETURNING c.xid
  ) SELECT count(*), max(r.xid::text::bigint) INTO gone, newest FROM removed AS r;
  IF gone > 0 THEN
    UPDATE feed.horizon AS h
      SET pruned = greatest(h.pruned, (newest + 1)::text::xid8);
  END IF;
  RETURN gone;
END
""",
)

# Whom the rows concerned cannot be told any more; all readers begin anew.
_BEGIN_ANEW = Function(
    "feed.begin_anew()",
    "feed.begin_anew()",
    "trigger",
    """
BEGIN
  UPDATE feed.horizon SET epoch = gen_random_uuid();
  RETURN NULL;
END
""",
)


def told_tables(tables: Sequence[sa.Table]) -> list[sa.Table]:
    """Those of which anything is told."""
    return [table for table in tables if events.of_table(table)]


def functions(tables: Sequence[sa.Table]) -> list[Function]:
    """All functions of the feed of these tables."""
    noting = [_noting(table, told) for table in tables if (told := events.of_table(table))]
    return [_BROADCAST, _TELL, _SEND, _PRUNE, _BEGIN_ANEW, *noting]


def triggers(tables: Sequence[sa.Table]) -> list[Trigger]:
    """All triggers of the feed of these tables."""
    made = [Trigger("feed.changes", f"{PREFIX}tell", "feed.tell", _BITS["INSERT"], after="made")]
    for table in told_tables(tables):
        name, function = _name(table), f"feed.{quoted(f'note_{table.name}')}"
        for operation, before, after in (
            ("INSERT", None, "after"),
            ("UPDATE", "before", "after"),
            ("DELETE", "before", None),
        ):
            trigger = f"{PREFIX}{operation.lower()}"
            made.append(Trigger(name, trigger, function, _BITS[operation], before, after))
        made.append(Trigger(name, f"{PREFIX}truncate", "feed.begin_anew", _BITS["TRUNCATE"]))
    return made


def apply(target: Target, tables: Sequence[sa.Table]) -> int:
    """Make the feed as declared, in a transaction; what is as declared is not touched.

    Args:
        target: the session.
        tables: the migration's.

    Returns:
        How many triggers were made.

    Raises:
        TargetError: a table is not there.
    """
    demand_tables(target, tables)
    if not is_there(target):
        target.run("; ".join(_storage()))
    target.run("; ".join(function.ddl for function in functions(tables)))
    declared, present = triggers(tables), look(target)
    made = [trigger for trigger in declared if trigger not in present]
    for trigger in present:
        if trigger not in declared:
            target.run(f"DROP TRIGGER {trigger.name} ON {trigger.table}")
    target.run("; ".join([*(trigger.ddl for trigger in made), *_rights(access.roles(target))]))
    return len(made)


def demand_tables(target: Target, tables: Sequence[sa.Table]) -> None:
    """Refuse a target that has not all the tables.

    Raises:
        TargetError: names what is missing.
    """
    there = {
        name
        for (name,) in target.rows(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = 'public'::regnamespace"
        )
    }
    lacking = [table.name for table in tables if table.name not in there]
    if lacking:
        raise TargetError(
            f"The target has no table {', '.join(lacking)} yet, so nothing can be told of it",
            remedy="Run pipeline migrate spaces first",
        )


def is_there(target: Target) -> bool:
    """Whether the target has a feed."""
    return bool(target.value("SELECT to_regclass('feed.changes') IS NOT NULL"))


def look(target: Target) -> list[Trigger]:
    """The feed's triggers that the target has."""
    found = target.rows(
        "SELECT CASE WHEN n.nspname = 'feed' THEN 'feed.changes' ELSE"
        " format('public.\"%s\"', replace(c.relname, '\"', '\"\"')) END, t.tgname::text,"
        " p.proname::text, t.tgtype::int, t.tgoldtable::text, t.tgnewtable::text,"
        " t.tgenabled::text FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_proc AS p ON p.oid = t.tgfoid"
        " WHERE starts_with(t.tgname::text, $1) AND p.pronamespace = to_regnamespace('feed')"
        " ORDER BY 1, 2",
        (PREFIX,),
    )
    return [
        Trigger(table, name, _function_name(function), *rest)
        for table, name, function, *rest in found
    ]


def differing(target: Target, wanted: Sequence[Function]) -> Iterator[tuple[Function, str]]:
    """Functions that are not as declared, and how."""
    found = target.rows(
        "SELECT s, prosrc, prosecdef, coalesce(array_to_string(proconfig, ';'), '')"
        " FROM unnest($1::text[]) AS s JOIN pg_proc AS p ON p.oid = to_regprocedure(s)",
        ([function.signature for function in wanted],),
    )
    there = {signature: tuple(rest) for signature, *rest in found}
    for function in wanted:
        actual = there.get(function.signature)
        if actual != (function.body, True, 'search_path=""'):
            yield function, "missing" if actual is None else "not as declared"


def _noting(table: sa.Table, told: Told) -> Function:
    """The function that notes what a statement changed in a table."""
    key = quoted(next(iter(table.primary_key.columns)).name)
    rows = {
        "INSERT": f'"after" AS new LEFT JOIN {_name(table)} AS old ON false',
        "UPDATE": f'"before" AS old FULL JOIN "after" AS new ON new.{key} = old.{key}',
        "DELETE": f'"before" AS old LEFT JOIN {_name(table)} AS new ON false',
    }
    branches = "".join(
        f"    WHEN '{operation}' THEN{_changes(table, told, key, source)}"
        for operation, source in rows.items()
    )
    head = f"feed.{quoted(f'note_{table.name}')}()"
    return Function(
        head,
        head,
        "trigger",
        f"""
#variable_conflict use_column
BEGIN
  IF current_setting('{MOVING}', true) = 'on'
      AND current_setting('{CANARY}', true) IS DISTINCT FROM 'on' THEN
    RETURN NULL;
  END IF;
  CASE TG_OP
{branches}  END CASE;
  RETURN NULL;
END
""",
    )


def _changes(table: sa.Table, told: Told, key: str, rows: str) -> str:
    """The statement that notes changed rows; one that is told elsewhere now went and came."""
    was, now = (
        "ROW(" + ", ".join(f"{side}.{quoted(column)}" for column in told.columns) + ")"
        for side in ("old", "new")
    )
    gone = f"(SELECT {_event(told, 'DELETE')} FROM (SELECT old.*) AS new)"
    return f"""
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, {_literal(table.name)}, c.operation, c.key::text
        FROM {rows}
        CROSS JOIN LATERAL (SELECT {_topic(told, "old")} AS was, {_topic(told, "new")} AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old.{key}, {gone}),
          (place.now, 'INSERT', new.{key}, {_event(told, "INSERT")}),
          (place.now, 'UPDATE', new.{key}, {_event(told, "UPDATE")})
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND {was} IS DISTINCT FROM {now}
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
"""


def _topic(told: Told, side: str) -> str:
    row = f"(SELECT {side}.*) AS r"
    if told.user is not None:
        return f"(SELECT 'user:' || ({told.user}) FROM {row})"
    return (
        "(SELECT 'space:' || t.space FROM"
        f" (SELECT ({told.space}) AS space FROM {row}) AS t WHERE NOT EXISTS"
        " (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime))"
    )


def _event(told: Told, operation: Operation) -> str:
    def case(occurs: Occurs) -> str:
        return f" WHEN {occurs.when} THEN {_literal(occurs.event)}"

    cases = "".join(case(occurs) for occurs in told.events if operation in occurs.on)
    return f"CASE{cases} END" if cases else "NULL::text"


def _storage() -> Iterator[str]:
    yield f"CREATE SCHEMA IF NOT EXISTS {feed.SCHEMA}"
    for table in feed.metadata.sorted_tables:
        yield compiled(CreateTable(table, if_not_exists=True))
        yield from (compiled(CreateIndex(i, if_not_exists=True)) for i in table.indexes)
    yield "INSERT INTO feed.horizon DEFAULT VALUES ON CONFLICT DO NOTHING"


def _rights(there: Sequence[str]) -> Iterator[str]:
    yield from access.hiding(feed.SCHEMA, there)
    who = ", ".join(["PUBLIC", *map(quoted, there)])
    yield f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {feed.SCHEMA} FROM {who}"
    if SPEAKER in there:
        yield f"GRANT USAGE ON SCHEMA {feed.SCHEMA} TO {SPEAKER}"
        yield f"GRANT EXECUTE ON FUNCTION {SEND} TO {SPEAKER}"


def _name(table: sa.Table) -> str:
    return f"public.{quoted(table.name)}"


def _function_name(name: str) -> str:
    return f"feed.{quoted(name) if name.startswith('note_') else name}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
