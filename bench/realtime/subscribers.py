"""Two ways to receive committed rows, for the same subscribers: events and polling.

Polling is as lean as possible. One prepared statement reads all four tables with dedicated indexes,
only rows with a larger id than the page has, and only their values; HTTP traffic is not counted.
Pages share a pool of connections.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import psycopg

from bench.realtime.fixture import space_of
from bench.realtime.load import FIRST
from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.limits import Limits
from pipeline.application.realtime.transports.events import STORED, Changed, Event
from pipeline.application.realtime.transports.listen import Listen
from pipeline.application.realtime.transports.session import connect
from pipeline.application.realtime.transports.transport import Received
from pipeline.core.errors import PipelineError, TargetError
from pipeline.declared.events import published_changes
from pipeline.migrations.spaces import metadata

EVERY = 5.0
"""Seconds between two polls of a page."""
LIMITS = Limits()
"""The limits of the hub: its defaults."""
_POOL = 10
_CONNECT_SECONDS = 10.0
_TABLES = ("messages", "notes", "space_members", "progress")
_COLUMNS = {
    name: rule.columns for name in _TABLES if (rule := published_changes(metadata.tables[name]))
}


class Tally:
    """Deliveries of rows to subscribers.

    Attributes:
        first: time of the first delivery, by subscriber, table and id.
        times: number of deliveries.
        bytes: size of the delivered JSON.
        failures: errors that were retried.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.first: dict[tuple[int, str, str], float] = {}
        self.times: Counter[tuple[int, str, str]] = Counter()
        self.bytes = self.failures = 0

    def record(self, subscriber: int, table: str, row: Mapping[str, Any]) -> None:
        """Record the delivery of a row."""
        now, delivery = time.monotonic(), (subscriber, table, str(row["id"]))
        self.first.setdefault(delivery, now)
        self.times[delivery] += 1
        text = json.dumps({"table": table, "row": row}, default=_plain, separators=(",", ":"))
        self.bytes += len(text)

    def fail(self, _: Exception) -> None:
        """Count an error that is retried."""
        self.failures += 1


class Way(Protocol):
    """A way to receive rows; ``disturbed`` switches on the loss of hints."""

    disturbed: bool
    lost: int


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value.isoformat()


class LossyListen(Listen):
    """LISTEN that loses every third hint in the disturbed phase."""

    def __init__(self, url: str) -> None:
        """Start undisturbed."""
        super().__init__(url)
        self.disturbed, self.lost, self._received = False, 0, 0

    async def signals(self) -> AsyncIterator[Received]:
        """The notifications that are not lost."""
        async for signal in super().signals():
            self._received += 1
            if self.disturbed and self._received % 3 == 0:
                self.lost += 1
            else:
                yield signal


@asynccontextmanager
async def events(url: str, count: int, tally: Tally) -> AsyncIterator[Way]:
    """One hub, and a context for each subscriber."""
    transport = LossyListen(url)
    async with (
        Hub(transport, url, metadata, limits=LIMITS, on_error=tally.fail) as hub,
        AsyncExitStack() as stack,
    ):
        for subscriber in range(1, count + 1):
            context = RealtimeContext(hub, on_error=tally.fail)
            await stack.enter_async_context(context)
            for event in STORED:
                callback = partial(_record_event, tally, subscriber)
                context.subscribe(event, callback, topic=f"space:{space_of(subscriber)}")
        until = time.monotonic() + _CONNECT_SECONDS
        while not hub.connected:
            if time.monotonic() > until:
                raise TargetError(
                    "The hub did not connect to the scratch database within"
                    f" {_CONNECT_SECONDS:g} s",
                    remedy="Use the direct connection or the session pooler, port 5432",
                )
            await asyncio.sleep(0.01)
        yield transport


def _record_event(tally: Tally, subscriber: int, event: Event) -> None:
    if isinstance(event, Changed) and event.row is not None:
        tally.record(subscriber, event.table, dict(event.row))


class Polling:
    """Pages that poll, through a pool of connections."""

    def __init__(self, url: str, tally: Tally, *, every: float) -> None:
        """Prepare; connections are opened when they are needed."""
        self.disturbed, self.lost = False, 0
        self._url, self._tally, self._every = url, tally, every
        self._statement = _statement()
        # Last in, first out: connections that are not needed stay closed.
        self._pool: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for _ in range(_POOL):
            self._pool.put_nowait(None)

    async def page(self, subscriber: int) -> None:
        """Poll for one subscriber, from a random time on, until cancelled."""
        known = dict.fromkeys(_TABLES, FIRST - 1)
        loop = asyncio.get_running_loop()
        due = loop.time() + random.Random(subscriber).uniform(0, self._every)
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self._every
            try:
                found = await self._query({**known, "space": space_of(subscriber)})
            except (TargetError, psycopg.Error) as error:
                self._tally.fail(error)
                continue
            for table, values in found:
                row = dict(zip(_COLUMNS[table], values, strict=True))
                known[table] = max(known[table], row["id"])
                self._tally.record(subscriber, table, row)

    async def _query(self, values: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
        connection = await self._pool.get()
        try:
            if connection is None or connection.closed:
                connection = await connect(self._url, seconds=_CONNECT_SECONDS, prepare=0)
            cursor = await connection.execute(self._statement, values, prepare=True)
            found: list[tuple[str, list[Any]]] = await cursor.fetchall()
            return found
        finally:
            self._pool.put_nowait(connection)

    async def close(self) -> None:
        """Close the connections."""
        while not self._pool.empty():
            connection = self._pool.get_nowait()
            if connection is not None:
                await connection.close()


@asynccontextmanager
async def polling(url: str, count: int, tally: Tally) -> AsyncIterator[Way]:
    """A page for each subscriber."""
    polling = Polling(url, tally, every=EVERY)
    pages = [asyncio.create_task(polling.page(number)) for number in range(1, count + 1)]
    try:
        yield polling
    finally:
        for page in pages:
            page.cancel()
        results = await asyncio.gather(*pages, return_exceptions=True)
        await polling.close()
    errors: Sequence[BaseException] = [
        each
        for each in results
        if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError)
    ]
    if errors:
        raise PipelineError(
            f"A polling page ended unexpectedly ({type(errors[0]).__name__})",
            remedy="Report this as a bug",
        ) from errors[0]


def _statement() -> str:
    """Rows of all tables that are newer than a page's, as values without column names."""
    parts = []
    for table, columns in _COLUMNS.items():
        values = ", ".join(f"t.{column}" for column in columns)
        # A lesson has the id of its space, so the query needs no join.
        where = "lesson_id" if table == "progress" else "space_id"
        parts.append(
            f"SELECT '{table}', json_build_array({values}) FROM {table} AS t"
            f" WHERE t.{where} = %(space)s AND t.id > %({table})s"
        )
    return " UNION ALL ".join(parts)
