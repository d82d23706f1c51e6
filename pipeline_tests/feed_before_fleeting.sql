-- The feed as the version before feed.fleeting made it, for one table: NOTIFY carried topics and whole
-- fleeting events. Kept to test that `pipeline realtime on` brings such a target up to date.
CREATE SCHEMA IF NOT EXISTS feed;
CREATE TABLE IF NOT EXISTS feed.changes (
	id BIGINT GENERATED ALWAYS AS IDENTITY, 
	xid xid8 DEFAULT pg_current_xact_id() NOT NULL, 
	at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL, 
	topic TEXT NOT NULL, 
	event TEXT, 
	table_name TEXT, 
	operation TEXT, 
	key TEXT, 
	payload JSONB, 
	PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS changes_xid_idx ON feed.changes (xid);
CREATE TABLE IF NOT EXISTS feed.horizon (
	one BOOLEAN DEFAULT true NOT NULL, 
	epoch UUID DEFAULT gen_random_uuid() NOT NULL, 
	pruned xid8, 
	PRIMARY KEY (one), 
	CONSTRAINT horizon_one_check CHECK (one)
);
INSERT INTO feed.horizon DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION feed.broadcast(topic text, event text, payload jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
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
$body$;
CREATE OR REPLACE FUNCTION feed.tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
DECLARE
  told record;
BEGIN
  FOR told IN
    SELECT m.topic, max(m.id) AS version, count(*) > 50 AS more,
        jsonb_agg(jsonb_build_object('id', m.id, 'table', m.table_name, 'operation', m.operation,
          'key', m.key, 'event', m.event) ORDER BY m.id)
          FILTER (WHERE m.number <= 50 AND m.table_name IS NOT NULL) AS changes
      FROM (SELECT *, row_number() OVER (PARTITION BY topic ORDER BY id) AS number FROM made) AS m
      GROUP BY m.topic ORDER BY m.topic
  LOOP
    IF pg_notification_queue_usage() <= 0.5 THEN
      PERFORM pg_notify('feed', told.topic);
    END IF;
    IF told.changes IS NOT NULL THEN
      PERFORM feed.broadcast(told.topic, 'changes', jsonb_build_object(
        'version', told.version, 'changes', told.changes, 'more', told.more));
    END IF;
  END LOOP;
  RETURN NULL;
END
$body$;
CREATE OR REPLACE FUNCTION feed.send(topic text, event text, payload jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
DECLARE
  said text := jsonb_build_object('topic', topic, 'event', event, 'payload', payload)::text;
BEGIN
  IF (topic ~ '^(space|user):-?[0-9]{1,18}$'
      AND event IN ('presence:changed', 'typing:changed')) IS NOT TRUE THEN
    RAISE EXCEPTION 'feed.send takes a topic like space:1 or user:1, and presence:changed or typing:changed'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF topic LIKE 'space:%' AND EXISTS (SELECT FROM public.spaces AS s
      WHERE s.id = substr(topic, 7)::bigint AND NOT s.enable_realtime) THEN
    RETURN;
  END IF;
  IF octet_length(said) <= 7900 AND pg_notification_queue_usage() <= 0.5 THEN
    PERFORM pg_notify('feed', said);
  ELSE
    INSERT INTO feed.changes (topic, event, payload) VALUES (topic, event, payload);
  END IF;
  PERFORM feed.broadcast(topic, event, payload);
END
$body$;
CREATE OR REPLACE FUNCTION feed.prune(keep interval, most integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
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
$body$;
CREATE OR REPLACE FUNCTION feed.begin_anew() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
BEGIN
  UPDATE feed.horizon SET epoch = gen_random_uuid();
  IF pg_notification_queue_usage() <= 0.5 THEN
    PERFORM pg_notify('feed', '');
  END IF;
  RETURN NULL;
END
$body$;
CREATE OR REPLACE FUNCTION feed."note_messages"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
#variable_conflict use_column
BEGIN
  IF current_setting('pipeline.moving', true) = 'on'
      AND current_setting('pipeline.canary', true) IS DISTINCT FROM 'on' THEN
    RETURN NULL;
  END IF;
  CASE TG_OP
    WHEN 'INSERT' THEN
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, 'messages', c.operation, c.key::text
        FROM "after" AS new LEFT JOIN public."messages" AS old ON false
        CROSS JOIN LATERAL (SELECT (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT old.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS was, (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT new.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old."id", (SELECT NULL::text FROM (SELECT old.*) AS new)),
          (place.now, 'INSERT', new."id", CASE WHEN true THEN 'message:new' END),
          (place.now, 'UPDATE', new."id", NULL::text)
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND ROW(old."id", old."space_id", old."user_id", old."content", old."attachments", old."created_at", old."updated_at") IS DISTINCT FROM ROW(new."id", new."space_id", new."user_id", new."content", new."attachments", new."created_at", new."updated_at")
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
    WHEN 'UPDATE' THEN
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, 'messages', c.operation, c.key::text
        FROM "before" AS old FULL JOIN "after" AS new ON new."id" = old."id"
        CROSS JOIN LATERAL (SELECT (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT old.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS was, (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT new.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old."id", (SELECT NULL::text FROM (SELECT old.*) AS new)),
          (place.now, 'INSERT', new."id", CASE WHEN true THEN 'message:new' END),
          (place.now, 'UPDATE', new."id", NULL::text)
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND ROW(old."id", old."space_id", old."user_id", old."content", old."attachments", old."created_at", old."updated_at") IS DISTINCT FROM ROW(new."id", new."space_id", new."user_id", new."content", new."attachments", new."created_at", new."updated_at")
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
    WHEN 'DELETE' THEN
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, 'messages', c.operation, c.key::text
        FROM "before" AS old LEFT JOIN public."messages" AS new ON false
        CROSS JOIN LATERAL (SELECT (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT old.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS was, (SELECT 'space:' || t.space FROM (SELECT (r.space_id) AS space FROM (SELECT new.*) AS r) AS t WHERE NOT EXISTS (SELECT FROM public.spaces AS s WHERE s.id = t.space AND NOT s.enable_realtime)) AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old."id", (SELECT NULL::text FROM (SELECT old.*) AS new)),
          (place.now, 'INSERT', new."id", CASE WHEN true THEN 'message:new' END),
          (place.now, 'UPDATE', new."id", NULL::text)
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND ROW(old."id", old."space_id", old."user_id", old."content", old."attachments", old."created_at", old."updated_at") IS DISTINCT FROM ROW(new."id", new."space_id", new."user_id", new."content", new."attachments", new."created_at", new."updated_at")
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
  END CASE;
  RETURN NULL;
END
$body$;
CREATE TRIGGER pipeline_feed_tell AFTER INSERT ON feed.changes REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION feed.tell();
CREATE TRIGGER pipeline_feed_insert AFTER INSERT ON public."messages" REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION feed."note_messages"();
CREATE TRIGGER pipeline_feed_update AFTER UPDATE ON public."messages" REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION feed."note_messages"();
CREATE TRIGGER pipeline_feed_delete AFTER DELETE ON public."messages" REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION feed."note_messages"();
CREATE TRIGGER pipeline_feed_truncate AFTER TRUNCATE ON public."messages" FOR EACH STATEMENT EXECUTE FUNCTION feed.begin_anew();
REVOKE ALL ON SCHEMA feed FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA feed FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA feed FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA feed FROM PUBLIC;
