"""A feed as the database makes it, with hand-made triggers, and subscribers that take notes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from pipeline.realtime.backoff import Backoff
from pipeline.realtime.events import Changed, Event
from pipeline.realtime.hub import Hub, Limits
from pipeline.realtime.listen import Listen
from pipeline.realtime.subscription import Subscription
from pipeline.realtime.transport import Transport
from pipeline.tables import feed, spaces
from pipeline_tests.support import query

QUICK = Limits(silence=0.2, poll=0.05, burst=0.002, settled=0.05)
"""Nobody waits for seconds in a test."""

PATIENT = Limits(silence=60, poll=60, burst=0.002, settled=0.05)
"""Whatever arrives has arrived by a hint."""

_OBJECTS = """
INSERT INTO feed.horizon DEFAULT VALUES;
CREATE TABLE messages (id int PRIMARY KEY, space_id int NOT NULL, user_id int NOT NULL DEFAULT 1,
  content text NOT NULL DEFAULT '', attachments jsonb, created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now());
CREATE TABLE notes (id int PRIMARY KEY, space_id int NOT NULL, author_id int NOT NULL DEFAULT 1,
  title text NOT NULL DEFAULT '', status text NOT NULL DEFAULT 'draft', assigned_to int,
  due_at timestamptz, published_at timestamptz, created_at timestamptz, updated_at timestamptz);
CREATE FUNCTION feed.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
  r := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
  INSERT INTO feed.changes (topic, event, table_name, operation, key)
  VALUES ('space:' || r.space_id,
    CASE WHEN TG_TABLE_NAME = 'messages' AND TG_OP = 'INSERT' THEN 'message:new' END,
    TG_TABLE_NAME, TG_OP, r.id::text);
  IF current_setting('test.silent', true) IS DISTINCT FROM 'on' THEN
    PERFORM pg_notify('feed', 'space:' || r.space_id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON messages
  FOR EACH ROW EXECUTE FUNCTION feed.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON notes
  FOR EACH ROW EXECUTE FUNCTION feed.note();
CREATE FUNCTION feed.send(topic text, event text, payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE said text := jsonb_build_object('topic', topic, 'event', event, 'payload', payload)::text;
BEGIN
  IF octet_length(said) < 7900 THEN
    PERFORM pg_notify('feed', said);
  ELSE
    INSERT INTO feed.changes (topic, event, payload) VALUES (topic, event, payload);
    PERFORM pg_notify('feed', topic);
  END IF;
END $$;
"""


def make_feed(url: str) -> None:
    """The feed's tables, two published ones, and triggers of each row."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA feed"))
        feed.metadata.create_all(connection)
    engine.dispose()
    query(url, _OBJECTS)


def say(url: str, *ids: int, space: int = 1) -> None:
    """Messages, one transaction for all of them."""
    rows = ", ".join(f"({each}, {space}, 'said {each}')" for each in ids)
    query(url, f"INSERT INTO messages (id, space_id, content) VALUES {rows}")


@asynccontextmanager
async def opened(
    url: str,
    *,
    limits: Limits = PATIENT,
    transport: Transport | None = None,
    errors: list[Exception] | None = None,
) -> AsyncIterator[Hub]:
    """A hub that listens, once it does."""
    told = [] if errors is None else errors
    hub = Hub(
        transport or Listen(url),
        url,
        spaces.metadata,
        limits=limits,
        backoff=lambda: Backoff(base=0.01, cap=0.1),
        on_error=told.append,
    )
    async with hub:
        await until(lambda: hub.connected)
        yield hub


async def until(true: Callable[[], Any], *, seconds: float = 20) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def take(subscription: Subscription, number: int, *, seconds: float = 20) -> list[Event]:
    """The next events, so many."""
    async with asyncio.timeout(seconds):
        return [await anext(subscription) for _ in range(number)]


async def nothing(subscription: Subscription, *, seconds: float = 0.1) -> bool:
    """Whether nothing more comes."""
    try:
        async with asyncio.timeout(seconds):
            await anext(subscription)
    except TimeoutError:
        return True
    return False


def keys(events: list[Event]) -> list[int]:
    """The keys of changed rows, in order."""
    return [int(event.key) for event in events if isinstance(event, Changed)]


async def session(url: str) -> psycopg.AsyncConnection[Any]:
    """A writer with transactions of its own."""
    return await psycopg.AsyncConnection.connect(url)
