"""Subscribers that take notes of a feed as the database makes it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.limits import Limits
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.backoff import Backoff
from pipeline.application.realtime.transports.events import Changed, Event
from pipeline.application.realtime.transports.listen import Listen
from pipeline.application.realtime.transports.transport import Transport
from pipeline.config.settings import libpq
from pipeline.migrations import spaces
from pipeline.postgres.embedded.server import ensure_server, leave
from pipeline_tests.support.feeds import make_world
from pipeline_tests.support.targets import new_database, query

QUICK = Limits(silence=0.2, poll=0.05, burst=0.002, settled=0.05)
"""Nobody waits for seconds in a test."""

PATIENT = Limits(silence=60, poll=60, burst=0.002, settled=0.05)
"""Whatever arrives has arrived by a hint."""

_FOR_TESTS = """
ALTER TABLE messages ALTER user_id SET DEFAULT 1, ALTER content SET DEFAULT '';
DO $do$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef('feed.tell()'::regprocedure),
  'IF pg_notification', 'IF current_setting(''test.silent'', true) IS DISTINCT FROM ''on'''
  ' AND pg_notification')); END $do$;
"""
"""Where ``test.silent`` is on, a change is not notified."""


@pytest.fixture
def feed_url(server: URL, feed_template: str) -> Iterator[str]:
    """A target with people, spaces and an empty feed, of which a writer may be silent."""
    with new_database(server, f"subscribers_{os.getpid()}", template=feed_template) as made:
        query(libpq(made), _FOR_TESTS)
        yield libpq(made)


def make_feed(url: str) -> None:
    """The same in an empty database."""
    make_world(url)
    query(url, _FOR_TESTS)


@pytest.fixture
def own_feed() -> Iterator[tuple[Path, str]]:
    """A server with a feed that the test may stop: its data and its URL."""
    folder = Path(tempfile.mkdtemp(prefix=f"own{os.getpid()}"))
    url = libpq(ensure_server(folder / "data"))
    make_feed(url)
    yield folder / "data", url
    leave(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)


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
