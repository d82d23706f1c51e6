"""The functions of the feed, as SQL: those that its triggers call, and those open to others.

They run as their owner with an empty search path, so writing to a table requires no right on the
feed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.declared import events, feed
from pipeline.declared.events import FLEETING, Operation, PublishedChanges
from pipeline.mapping.row_key import RowKey
from pipeline.postgres.session import CANARY, MOVING

SEND = "feed.send(text,text,jsonb)"
FULL_QUEUE = 0.5
"""Above this share of its queue NOTIFY is skipped, because a full queue fails the transactions that
use it. Subscribers find the changes when they poll."""
MOST_CHANGES = 50
"""Changes that one broadcast names at most; the feed has all."""
PAYLOAD_BYTES = 256 << 10
"""The largest payload of a fleeting event, as JSON."""
SWEPT_EVERY = 100
"""Every so many fleeting events the expired ones are removed."""
_SWEPT_IDS = 100_000
"""The ids that this removal goes back; a long transaction can keep many dead rows before them."""


@dataclass(frozen=True)
class Function:
    """A function of the feed.

    Attributes:
        signature: name and argument types, in the format of ``to_regprocedure``.
        head: name and named arguments.
        returns: a type, in PostgreSQL's words.
        body: PostgreSQL's ``prosrc``.
    """

    signature: str
    head: str
    returns: str
    body: str
    language: str = "plpgsql"

    @property
    def ddl(self) -> str:
        """The statement that creates it."""
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
    SELECT m.topic, max(m.id) AS version, count(*) > {MOST_CHANGES} AS more,
        jsonb_agg(jsonb_build_object('id', m.id, 'table', m.table_name, 'operation', m.operation,
          'key', m.key, 'event', m.event) ORDER BY m.id)
          FILTER (WHERE m.number <= {MOST_CHANGES} AND m.table_name IS NOT NULL) AS changes
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
# unpublished columns, and raises when it fails, which would fail the application's write.
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
      WHERE o.id BETWEEN made - {_SWEPT_IDS} AND made
        AND o.at < clock_timestamp() - interval '{feed.FRESH}' FOR UPDATE SKIP LOCKED);
  END IF;
  IF pg_notification_queue_usage() <= {FULL_QUEUE} THEN
    PERFORM pg_notify('{feed.CHANNEL}', '{feed.FLEETING_HINT}');
  END IF;
  PERFORM feed.broadcast(topic, event, payload);
END
""",
)

# It checks a bounded number of the oldest rows, so that it always ends soon.
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

# The topics of truncated rows are unknown, so all readers start again.
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
    recording = [
        _recording(table, published)
        for table in tables
        if (published := events.published_changes(table))
    ]
    return [_BROADCAST, _TELL, _SEND, _PRUNE, _BEGIN_ANEW, *recording]


def qualified(table: sa.Table) -> str:
    """The name of a table of the application in SQL, with its schema."""
    return f"public.{quoted(table.name)}"


def _recording(table: sa.Table, published: PublishedChanges) -> Function:
    """The function that records the rows of a table that a statement changed."""
    key = RowKey.of(table).sql
    rows = {
        "INSERT": f'"after" AS new LEFT JOIN {qualified(table)} AS old ON false',
        "UPDATE": f'"before" AS old FULL JOIN "after" AS new ON new.{key} = old.{key}',
        "DELETE": f'"before" AS old LEFT JOIN {qualified(table)} AS new ON false',
    }
    branches = "".join(
        f"    WHEN '{operation}' THEN{_insert_changes(table, published, key, source)}"
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


def _insert_changes(table: sa.Table, published: PublishedChanges, key: str, rows: str) -> str:
    """The statement that records changed rows; a new topic makes a row deleted and inserted."""
    was, now = (
        "ROW(" + ", ".join(f"{side}.{quoted(column)}" for column in published.columns) + ")"
        for side in ("old", "new")
    )
    deleted = f"(SELECT {_event(published, 'DELETE')} FROM (SELECT old.*) AS new)"
    old_topic, new_topic = _topic(published, "old"), _topic(published, "new")
    return f"""
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, {_literal(table.name)}, c.operation, c.key::text
        FROM {rows}
        CROSS JOIN LATERAL (SELECT {old_topic} AS was, {new_topic} AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old.{key}, {deleted}),
          (place.now, 'INSERT', new.{key}, {_event(published, "INSERT")}),
          (place.now, 'UPDATE', new.{key}, {_event(published, "UPDATE")})
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND {was} IS DISTINCT FROM {now}
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
"""


def _topic(published: PublishedChanges, side: str) -> str:
    row = f"(SELECT {side}.*) AS r"
    if published.user is not None:
        return f"(SELECT 'user:' || ({published.user}) FROM {row})"
    return (
        "(SELECT 'space:' || t.space FROM"
        f" (SELECT ({published.space}) AS space FROM {row}) AS t WHERE NOT EXISTS"
        " (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime))"
    )


def _event(published: PublishedChanges, operation: Operation) -> str:
    cases = "".join(
        f" WHEN {rule.when} THEN {_literal(rule.event)}"
        for rule in published.events
        if operation in rule.on
    )
    return f"CASE{cases} END" if cases else "NULL::text"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
