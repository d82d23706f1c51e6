"""Tables of group spaces in a target, with a feed, and an application that writes them."""

import json
import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.mapping.matching import SourceColumn, match
from pipeline.migrations import registry
from pipeline.migrations.spaces import metadata
from pipeline.postgres import access, schema
from pipeline.postgres import table_functions as table_objects
from pipeline.postgres.target import Target
from pipeline.realtime import channels, feed_objects, publication
from pipeline_tests.support.targets import new_database, query

TABLES = metadata.sorted_tables
PEOPLE = """
INSERT INTO users (id, auth_provider_id, email) VALUES (1, 'ann', 'a@x'), (2, 'bob', 'b@x'),
  (3, 'cid', 'c@x');
INSERT INTO spaces (id, owner_id, name, slug, enable_realtime) VALUES (1, 1, 'one', 'one', true),
  (2, 1, 'two', 'two', true), (3, 1, 'mute', 'mute', false);
INSERT INTO space_members (id, space_id, user_id, status) VALUES (1, 1, 1, 'active'),
  (2, 1, 2, 'invited'), (3, 2, 2, 'active');
INSERT INTO notes (id, space_id, author_id, title) VALUES (1, 1, 1, 'n');
INSERT INTO lessons (id, space_id, title) VALUES (1, 1, 'l');
"""
"""Ann is in space one, Bob in two and only invited to one, Cid nowhere; space three is mute."""

_REALTIME = """
CREATE SCHEMA realtime;
GRANT USAGE ON SCHEMA realtime TO owner, anon, authenticated, service_role;
CREATE TABLE realtime.messages (topic text NOT NULL, extension text NOT NULL, payload jsonb,
  event text, private boolean DEFAULT false, updated_at timestamp DEFAULT now() NOT NULL,
  inserted_at timestamp DEFAULT now() NOT NULL, id uuid DEFAULT gen_random_uuid() NOT NULL,
  PRIMARY KEY (id, inserted_at)) PARTITION BY RANGE (inserted_at);
CREATE TABLE realtime.messages_now PARTITION OF realtime.messages DEFAULT;
ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE realtime.messages OWNER TO owner;
GRANT SELECT, INSERT, UPDATE ON realtime.messages TO anon, authenticated, service_role;
CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE
  RETURN nullif(current_setting('realtime.topic', true), '');
CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
  RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  PERFORM set_config('realtime.topic', topic, true);
  INSERT INTO realtime.messages (payload, event, topic, private, extension)
    VALUES (payload, event, topic, private, 'broadcast');
END $$;
"""
"""What Supabase's Realtime makes of a database, but that its ``send`` raises when it fails."""


@pytest.fixture(scope="session")
def feed_template(server: URL) -> Iterator[str]:
    """Name of a database with people, spaces and an empty feed, for others to copy."""
    with new_database(server, "feed_template") as made:
        make_world(libpq(made))
        yield "feed_template"


def make_world(url: str) -> None:
    """People, spaces and an empty feed."""
    make_tables(url)
    query(url, PEOPLE)
    switch_on(url)


def make_tables(url: str) -> None:
    """Empty tables as a first move would make them."""
    with Target.connect(url, shown="the target") as target, target.transaction():
        there = access.roles(target)
        for table in TABLES:
            columns = [SourceColumn(column.name, "") for column in table.columns]
            table_objects.make_functions(
                target, table, ()
            )  # What stamps; the others ask the tables.
            target.run(*schema.whole(match(table, columns)))
        for table in TABLES if there else ():
            table_objects.make_functions(target, table, there)
            target.run(*access.statements(table, there))


def switch_on(url: str) -> list[str]:
    """As the asset does."""
    with Target.connect(url, shown="the target") as target, target.transaction():
        feed_objects.apply(target, TABLES)
        done = publication.apply(
            target, TABLES, known={table.name for table in registry.find().tables}
        )
        channels.apply(target)
        return done


def add_realtime(admin: URL) -> None:
    """Add what Supabase has; by the superuser."""
    query(libpq(admin), _REALTIME)


def changes(url: str) -> list[tuple[Any, ...]]:
    """Topic, table, operation, key and event of all changes, in the order of the feed."""
    return query(
        url, "SELECT topic, table_name, operation, key, event FROM feed.changes ORDER BY id"
    )


@contextmanager
def listening(url: str) -> Iterator["Listener"]:
    """A session that listens as the application's server does."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute("LISTEN feed")
        yield Listener(connection)


class Listener:
    """What was heard on the channel."""

    def __init__(self, connection: Any) -> None:
        """Nothing yet."""
        self._connection = connection

    def heard(self, *, at_least: int = 0, seconds: float = 5) -> list[str]:
        """Payloads since the last time, in order; waits for so many."""
        until = time.monotonic() + seconds
        self._connection.cursor().execute("SELECT 1")
        while len(self._connection.notifies) < at_least and time.monotonic() < until:
            select.select([self._connection], [], [], 0.1)
            self._connection.poll()
        found = [notify.payload for notify in self._connection.notifies]
        self._connection.notifies.clear()
        return found


def sent(url: str) -> list[tuple[str, str, Any]]:
    """Topic, event and payload of what was broadcast."""
    rows = query(url, "SELECT topic, event, payload::text FROM realtime.messages ORDER BY topic")
    return [(topic, event, json.loads(payload)) for topic, event, payload in rows]
