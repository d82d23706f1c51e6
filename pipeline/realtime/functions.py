"""The functions of the feed, as SQL: what its triggers do, and what others may call.

They run as who made them, with a search path that nobody can bend, so whoever may write a table may
do so without a right on the feed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.declared import events, feed
from pipeline.declared.events import FLEETING, Occurs, Operation, Told
from pipeline.mapping.row_key import RowKey
from pipeline.postgres.session import CANARY, MOVING

SEND = "feed.send(text,text,jsonb)"
FULL_QUEUE = 0.5
"""Beyond this share of its queue NOTIFY is left out: a full one fails the transactions that use it.
Who listens finds the changes when it looks by itself."""
MOST_TOLD = 50
"""A broadcast names so many changes; who needs more reads the feed."""
PAYLOAD_BYTES = 256 << 10
"""A fleeting event carries at most so many bytes of JSON."""
SWEPT_EVERY = 100
"""Each so-many-th fleeting event removes those that are not fresh any more."""
_SWEPT_BEHIND = 100_000
"""It looks no further back, past rows that a long transaction keeps the server from removing."""


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


_TELL = Function(
    "feed.tell()",
    "feed.tell()",
    "trigger",
    f"""
DECLARE
  told record;
BEGIN
  IF pg_notification_queue_usage() <= {FULL_QUEUE} AND EXISTS (SELECT FROM made) THEN
    PERFORM pg_notify('{feed.CHANNEL}', '{feed.CHANGED_HINT}');
  END IF;
  FOR told IN
    SELECT m.topic, max(m.id) AS version, count(*) > {MOST_TOLD} AS more,
        jsonb_agg(jsonb_build_object('id', m.id, 'table', m.table_name, 'operation', m.operation,
          'key', m.key, 'event', m.event) ORDER BY m.id)
          FILTER (WHERE m.number <= {MOST_TOLD} AND m.table_name IS NOT NULL) AS changes
      FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY id) AS number FROM made) AS m
      GROUP BY m.topic ORDER BY m.topic
  LOOP
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
  made bigint;
BEGIN
  IF (topic ~ '^(space|user):-?[0-9]{{1,18}}$'
      AND event IN ({", ".join(f"'{event}'" for event in FLEETING)})) IS NOT TRUE THEN
    RAISE EXCEPTION 'feed.send takes a topic like space:1 or user:1, and {" or ".join(FLEETING)}'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF octet_length(payload::text) > {PAYLOAD_BYTES} THEN
    RAISE EXCEPTION 'feed.send takes at most {PAYLOAD_BYTES} bytes of payload'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF topic LIKE 'space:%' AND EXISTS (SELECT FROM public.spaces AS s
      WHERE s.id = substr(topic, 7)::bigint AND NOT s.enable_realtime) THEN
    RETURN;
  END IF;
  INSERT INTO feed.fleeting AS f (topic, event, payload) VALUES (topic, event, payload)
    RETURNING f.id INTO made;
  IF made % {SWEPT_EVERY} = 0 THEN
    DELETE FROM feed.fleeting AS f WHERE f.id IN (SELECT o.id FROM feed.fleeting AS o
      WHERE o.id BETWEEN made - {_SWEPT_BEHIND} AND made
        AND o.at < clock_timestamp() - interval '{feed.FRESH}' FOR UPDATE SKIP LOCKED);
  END IF;
  IF pg_notification_queue_usage() <= {FULL_QUEUE} THEN
    PERFORM pg_notify('{feed.CHANNEL}', '{feed.FLEETING_HINT}');
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
    f"""
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
  DELETE FROM feed.fleeting AS f WHERE f.id IN (SELECT o.id FROM feed.fleeting AS o
    WHERE o.at < clock_timestamp() - interval '{feed.FRESH}' LIMIT most FOR UPDATE SKIP LOCKED);
  RETURN gone;
END
""",
)

# Whom the rows concerned cannot be told any more; all readers begin anew.
_BEGIN_ANEW = Function(
    "feed.begin_anew()",
    "feed.begin_anew()",
    "trigger",
    f"""
BEGIN
  UPDATE feed.horizon SET epoch = gen_random_uuid();
  IF pg_notification_queue_usage() <= {FULL_QUEUE} THEN
    PERFORM pg_notify('{feed.CHANNEL}', '{feed.CHANGED_HINT}');
  END IF;
  RETURN NULL;
END
""",
)


def functions(tables: Sequence[sa.Table]) -> list[Function]:
    """All functions of the feed of these tables."""
    noting = [_noting(table, told) for table in tables if (told := events.of_table(table))]
    return [_BROADCAST, _TELL, _SEND, _PRUNE, _BEGIN_ANEW, *noting]


def named(table: sa.Table) -> str:
    """A table of the application, as SQL names it."""
    return f"public.{quoted(table.name)}"


def _noting(table: sa.Table, told: Told) -> Function:
    """The function that notes what a statement changed in a table."""
    key = RowKey.of(table).sql
    rows = {
        "INSERT": f'"after" AS new LEFT JOIN {named(table)} AS old ON false',
        "UPDATE": f'"before" AS old FULL JOIN "after" AS new ON new.{key} = old.{key}',
        "DELETE": f'"before" AS old LEFT JOIN {named(table)} AS new ON false',
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


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
