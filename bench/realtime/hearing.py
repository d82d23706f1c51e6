"""Two ways to learn what was committed, for the same people: by events, and by polling.

Polling is the leanest that could be thought of. One prepared statement asks all four tables at
once, by indexes made for it, only for rows with a larger id than the page has, and gets nothing
but their values; nothing of HTTP is counted. Pages share a pool of connections.
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

from bench.realtime.load import FIRST
from bench.realtime.scene import space_of
from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.limits import Limits
from pipeline.application.realtime.transports.events import STORED, Changed, Event
from pipeline.application.realtime.transports.listen import Listen
from pipeline.application.realtime.transports.session import connect
from pipeline.application.realtime.transports.transport import Told
from pipeline.core.errors import PipelineError, TargetError
from pipeline.declared.events import of_table
from pipeline.migrations.spaces import metadata

EVERY = 5.0
"""Seconds between two polls of a page."""
LIMITS = Limits()
"""Of the hub: those that it has for everybody."""
_POOL = 10
_CONNECT_SECONDS = 10.0
_TABLES = ("messages", "notes", "space_members", "progress")
_COLUMNS = {name: told.columns for name in _TABLES if (told := of_table(metadata.tables[name]))}


class Tally:
    """What arrived at whom, and when.

    Attributes:
        first: when a row arrived at a person for the first time.
        times: how often.
        bytes: of the JSON that goes on to the people.
        trouble: failures that were tried again.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.first: dict[tuple[int, str, str], float] = {}
        self.times: Counter[tuple[int, str, str]] = Counter()
        self.bytes = self.trouble = 0

    def take(self, person: int, table: str, row: Mapping[str, Any]) -> None:
        """A row of a table arrived at a person."""
        now, what = time.monotonic(), (person, table, str(row["id"]))
        self.first.setdefault(what, now)
        self.times[what] += 1
        said = json.dumps({"table": table, "row": row}, default=_plain, separators=(",", ":"))
        self.bytes += len(said)

    def fail(self, _: Exception) -> None:
        """Something failed and is tried again."""
        self.trouble += 1


class Way(Protocol):
    """A way by which people hear; hard times begin when it is told so."""

    hard: bool
    lost: int


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value.isoformat()


class Forgetful(Listen):
    """LISTEN that loses every third hint in hard times."""

    def __init__(self, url: str) -> None:
        """Lose nothing yet."""
        super().__init__(url)
        self.hard, self.lost, self._heard = False, 0, 0

    async def signals(self) -> AsyncIterator[Told]:
        """What is notified, and is not lost."""
        async for signal in super().signals():
            self._heard += 1
            if self.hard and self._heard % 3 == 0:
                self.lost += 1
            else:
                yield signal


@asynccontextmanager
async def events(url: str, people: int, tally: Tally) -> AsyncIterator[Way]:
    """One hub, and a context for each of the people."""
    transport = Forgetful(url)
    async with (
        Hub(transport, url, metadata, limits=LIMITS, on_error=tally.fail) as hub,
        AsyncExitStack() as stack,
    ):
        for person in range(1, people + 1):
            context = RealtimeContext(hub, on_error=tally.fail)
            await stack.enter_async_context(context)
            for event in STORED:
                callback = partial(_heard, tally, person)
                context.subscribe(event, callback, topic=f"space:{space_of(person)}")
        until = time.monotonic() + _CONNECT_SECONDS
        while not hub.connected:
            if time.monotonic() > until:
                raise TargetError(
                    f"Nothing is told of the scratch database within {_CONNECT_SECONDS:g} s",
                    remedy="Take the direct or the session connection, port 5432",
                )
            await asyncio.sleep(0.01)
        yield transport


def _heard(tally: Tally, person: int, event: Event) -> None:
    if isinstance(event, Changed) and event.row is not None:
        tally.take(person, event.table, dict(event.row))


class Polling:
    """Pages that poll, through a pool of connections."""

    def __init__(self, url: str, tally: Tally, *, every: float) -> None:
        """Connect later."""
        self.hard, self.lost = False, 0
        self._url, self._tally, self._every = url, tally, every
        self._statement = _statement()
        # The last that was given back comes first, so few are used where few are needed.
        self._pool: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for _ in range(_POOL):
            self._pool.put_nowait(None)

    async def page(self, person: int) -> None:
        """Poll for one of the people, from a moment by chance, until cancelled."""
        known = dict.fromkeys(_TABLES, FIRST - 1)
        loop = asyncio.get_running_loop()
        due = loop.time() + random.Random(person).uniform(0, self._every)
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self._every
            try:
                found = await self._ask({**known, "space": space_of(person)})
            except (TargetError, psycopg.Error) as error:
                self._tally.fail(error)
                continue
            for table, values in found:
                row = dict(zip(_COLUMNS[table], values, strict=True))
                known[table] = max(known[table], row["id"])
                self._tally.take(person, table, row)

    async def _ask(self, values: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
        connection = await self._pool.get()
        try:
            if connection is None or connection.closed:
                connection = await connect(self._url, seconds=_CONNECT_SECONDS, prepare=0)
            asked = await connection.execute(self._statement, values, prepare=True)
            found: list[tuple[str, list[Any]]] = await asked.fetchall()
            return found
        finally:
            self._pool.put_nowait(connection)

    async def close(self) -> None:
        """Give back the connections."""
        while not self._pool.empty():
            connection = self._pool.get_nowait()
            if connection is not None:
                await connection.close()


@asynccontextmanager
async def polling(url: str, people: int, tally: Tally) -> AsyncIterator[Way]:
    """A page for each of the people."""
    made = Polling(url, tally, every=EVERY)
    pages = [asyncio.create_task(made.page(person)) for person in range(1, people + 1)]
    try:
        yield made
    finally:
        for page in pages:
            page.cancel()
        ended = await asyncio.gather(*pages, return_exceptions=True)
        await made.close()
    faults: Sequence[BaseException] = [
        each for each in ended if isinstance(each, BaseException) and not _cancelled(each)
    ]
    if faults:
        raise PipelineError(
            f"A page that polls has ended ({type(faults[0]).__name__})", remedy="Report this"
        ) from faults[0]


def _cancelled(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)


def _statement() -> str:
    """What is newer than a page has, of all tables; values without names, as JSON has no dates."""
    parts = []
    for table, columns in _COLUMNS.items():
        values = ", ".join(f"t.{column}" for column in columns)
        # The lesson of a space has the space's id, so polling need not even join.
        where = "lesson_id" if table == "progress" else "space_id"
        parts.append(
            f"SELECT '{table}', json_build_array({values}) FROM {table} AS t"
            f" WHERE t.{where} = %(space)s AND t.id > %({table})s"
        )
    return " UNION ALL ".join(parts)
