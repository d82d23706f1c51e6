"""The functions of the feed, as SQL: those that its triggers call, and those open to others.

They run as their owner with an empty search path, so writing to a table requires no right on the
feed.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from pipeline.declared import feed
from pipeline.declared.events import FLEETING
from pipeline.realtime import recording
from pipeline.realtime.sql_function import Function

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
  DELETE FROM feed.former AS f WHERE f.id IN (SELECT o.id FROM feed.former AS o
    WHERE o.xid < pg_snapshot_xmin(pg_current_snapshot()) LIMIT most FOR UPDATE SKIP LOCKED);
  RETURN gone;
END
""",
)

_FORMER_REFERENCE = Function(
    "feed.former_reference(text,text)",
    "feed.former_reference(parent text, parent_key text)",
    "text",
    """
SELECT f.reference FROM feed.former AS f
  WHERE (f.xid, f.table_name, f.key) = (pg_current_xact_id(), parent, parent_key)
  ORDER BY f.id DESC LIMIT 1
""",
    language="sql",
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
    always = [_BROADCAST, _TELL, _SEND, _PRUNE, _BEGIN_ANEW, _FORMER_REFERENCE]
    return [*always, *recording.functions(tables)]
