"""Whatever writers, readers and the network do, every log equals what was committed.

Acts are chosen at random from a seed: writers with transactions and savepoints of their own,
rollbacks, sessions that are killed, hints that are lost, subscribers that are slow, come late or go
on elsewhere.
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Changed
from pipeline_tests.support.subscribers import QUICK, opened, session, until
from pipeline_tests.support.targets import query

ACTS = 120
ROWS = 12


@dataclass
class Listener:
    """A subscriber that takes notes, slowly or not.

    Attributes:
        after: the largest change that was committed before it began; earlier ones may be told.
    """

    subscription: Subscription
    rng: random.Random
    space: int
    slow: bool
    log: list[Changed] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take events from now on."""
        self.task = asyncio.create_task(self._take())

    async def _take(self) -> None:
        async for event in self.subscription:
            assert isinstance(event, Changed)
            self.log.append(event)
            if self.slow:
                await asyncio.sleep(self.rng.random() * 0.004)

    async def move(self, hub: Hub) -> None:
        """Stop, and go on from where it was, as another process would."""
        assert self.task is not None
        # A position says what was taken; what is taken after it is told again.
        await until(lambda: not self.subscription._queue)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        kept = Cursor.parse(str(self.subscription.position))
        hub.unsubscribe(self.subscription)
        self.subscription = hub.subscribe(topic=f"space:{self.space}", since=kept)
        self.begin()


async def write(writer: psycopg.AsyncConnection[Any], rng: random.Random, at: int) -> None:
    """Change a row of the writer's own, so that no writer waits for another."""
    key, space = at * 100 + rng.randrange(ROWS), rng.randrange(1, 3)
    if rng.random() < 0.3:
        await writer.execute("SET LOCAL test.silent = 'on'")
    if rng.random() < 0.3:
        await writer.execute("SAVEPOINT s")
    await writer.execute(
        "INSERT INTO messages (id, space_id) VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET content = messages.content || '.'",
        (key, space),
    )
    if rng.random() < 0.2:
        await writer.execute("DELETE FROM messages WHERE id = %s", (key,))
    if rng.random() < 0.2:
        await writer.execute("SAVEPOINT s")
        await writer.execute("DELETE FROM messages WHERE id / 100 = %s", (at,))
        await writer.execute("ROLLBACK TO s")


SEEDS = [0, 1, 2]
"""Always; others are soaks."""


@pytest.mark.parametrize(
    "seed",
    [
        *SEEDS,
        *(
            pytest.param(seed, marks=pytest.mark.slow)
            for seed in range(3, 3 + int(os.environ.get("SOAK_SEEDS", "3")))
        ),
    ],
)
def test_every_log_equals_what_was_committed(feed_url: str, seed: int) -> None:
    rng = random.Random(seed)

    async def scenario() -> None:
        limits = replace(QUICK, room=rng.choice([2, 10, 1000]), page=rng.choice([1, 3, 50]))
        async with AsyncExitStack() as stack:
            hub = await stack.enter_async_context(opened(feed_url, limits=limits))
            writers = [await stack.enter_async_context(await session(feed_url)) for _ in range(4)]
            listeners = [
                Listener(
                    hub.subscribe(topic=f"space:{space}"), random.Random(seed + number), space, slow
                )
                for number, (space, slow) in enumerate(
                    [(1, False), (2, False), (1, True), (2, True)]
                )
            ]
            for listener in listeners:
                listener.begin()
            for _ in range(ACTS):
                at = rng.randrange(len(writers))
                match rng.choice(
                    ["write"] * 6 + ["commit"] * 4 + ["roll back", "cut", "move", "wait"]
                ):
                    case "write":
                        await write(writers[at], rng, at)
                    case "commit":
                        await writers[at].commit()
                    case "roll back":
                        await writers[at].rollback()
                    case "cut":
                        query(
                            feed_url,
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                            " WHERE application_name = 'pipeline realtime'"
                            " AND datname = current_database() AND random() < 0.7",
                        )
                    case "move":
                        await rng.choice(listeners[:2]).move(hub)
                    case "wait":
                        await asyncio.sleep(rng.random() * 0.02)
            for writer in writers:
                await writer.commit()
            for listener in listeners:
                found = query(
                    feed_url,
                    "SELECT id, key, operation FROM feed.changes WHERE topic = %s ORDER BY id",
                    (f"space:{listener.space}",),
                )
                await until(lambda: len(listener.log) >= len(found))  # noqa: B023
                await asyncio.sleep(0.05)
                told = [(event.version, event.key, event.operation) for event in listener.log]
                assert sorted(told) == found
                for key in {key for _, key, _ in found}:
                    of_row = [version for version, own, _ in told if own == key]
                    assert of_row == sorted(of_row)
                assert listener.task is not None
                assert not listener.task.done()
            assert hub.metrics.resyncs == 0
            assert hub.metrics.most_waiting <= limits.room

    asyncio.run(scenario())
