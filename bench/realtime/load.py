"""The application that writes: a process of its own, so that its clock waits for no subscriber.

Messages, notes, progress and joining members come at a steady rate from several sessions, whose
transactions commit in another order than they began. Every write makes one row, because polling
sees only the last state of a row. The order comes as a line of JSON on standard input, so no
password stands in a list of processes.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2

from pipeline.core.errors import TargetError
from pipeline.postgres.session import APPLICATION, connect

NAME = "pipeline bench load"
"""What the server calls these sessions."""
FIRST = 1_000_000
"""The first id of what is written; who is there before has smaller ones."""
SESSIONS = 4
_OPEN = 0.02
"""A transaction stays open for up to so many seconds."""
_STATEMENTS = {
    "messages": "INSERT INTO messages (id, space_id, user_id, content) VALUES"
    " (%(id)s, %(space)s, %(person)s, 'Shall we go through the second part tonight? ' || %(id)s)",
    "progress": "INSERT INTO progress (id, user_id, lesson_id, status) VALUES"
    " (%(id)s, %(person)s, %(space)s, 'in_progress')",
    "notes": "INSERT INTO notes (id, space_id, author_id, title, status, published_at) VALUES"
    " (%(id)s, %(space)s, %(person)s, 'What we found out, part ' || %(id)s, 'published', now())",
    "space_members": "INSERT INTO users (id, auth_provider_id, email)"
    " VALUES (%(id)s, 'joined ' || %(id)s, %(id)s || '@bench');"
    " INSERT INTO space_members (id, space_id, user_id) VALUES (%(id)s, %(space)s, %(id)s)",
}
_MIX = ("messages", "progress", "messages", "notes", "messages") * 2
_KINDS = (*_MIX[:-1], "space_members")


@dataclass(frozen=True)
class Order:
    """What is to be written.

    Attributes:
        url: the database, as libpq reads it.
        people: how many there are.
        of_a_space: how many of them share a space.
        rate: writes per second.
        seconds: for how long.
        seed: who writes what, and how long transactions stay open.
    """

    url: str
    people: int
    of_a_space: int
    rate: float
    seconds: float
    seed: int


@dataclass(frozen=True)
class Write:
    """A row that was committed; ``at`` is the monotonic clock as COMMIT was sent."""

    table: str
    key: str
    space: int
    at: float


class Load:
    """The process that writes, from the outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """It is ready."""
        self._process = process

    async def begin(self, at: float) -> None:
        """Let it begin at a moment of the monotonic clock."""
        await _say(self._process, at)

    async def written(self) -> list[Write]:
        """Wait for its end; what it committed.

        Raises:
            TargetError: it failed.
        """
        return [Write(*each) for each in await _answer(self._process)]


@asynccontextmanager
async def started(order: Order) -> AsyncIterator[Load]:
    """The process, connected and waiting for its moment.

    Raises:
        TargetError: it cannot write.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 30,
    )
    try:
        await _say(process, asdict(order))
        await _answer(process)
        yield Load(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _say(process: asyncio.subprocess.Process, what: Any) -> None:
    if process.stdin is None:
        return
    process.stdin.write(json.dumps(what).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()


async def _answer(process: asyncio.subprocess.Process) -> Any:
    line = await process.stdout.readline() if process.stdout else b""
    said = json.loads(line) if line else {"failed": "its process has ended"}
    if isinstance(said, dict):
        raise TargetError(
            f"The application that writes has failed: {said['failed']}", remedy="Measure again"
        )
    return said


def _main() -> None:
    # Ctrl-C is for the process that measures, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        sessions = [_connected(order.url) for _ in range(SESSIONS)]
        print("[]", flush=True)
        said = _written(order, sessions, begin=json.loads(sys.stdin.readline()))
    except TargetError as refused:
        print(json.dumps({"failed": refused.problem}), flush=True)
        return
    except psycopg2.Error as error:
        failed = TargetError.from_driver(error, where="the scratch database", url=order.url)
        print(json.dumps({"failed": failed.problem}), flush=True)
        return
    print(json.dumps(said), flush=True)


def _connected(url: str) -> Any:
    where = "the scratch database"
    return connect(url, shown=where, application_name=NAME, settings=APPLICATION, autocommit=False)


def _written(
    order: Order, sessions: list[Any], *, begin: float
) -> list[tuple[str, str, int, float]]:
    def one(number: int) -> list[tuple[str, str, int, float]]:
        writes = range(number, round(order.rate * order.seconds), SESSIONS)
        with closing(sessions[number]) as session:
            return [_write(order, session, at, due=begin + at / order.rate) for at in writes]

    with ThreadPoolExecutor(SESSIONS) as pool:
        return [write for made in pool.map(one, range(SESSIONS)) for write in made]


def _write(order: Order, session: Any, at: int, *, due: float) -> tuple[str, str, int, float]:
    chance = random.Random(order.seed * 1_000_003 + at)
    person, table = chance.randint(1, order.people), _KINDS[at % len(_KINDS)]
    space = (person - 1) // order.of_a_space + 1
    time.sleep(max(0.0, due - time.monotonic()))
    with session.cursor() as cursor:
        cursor.execute(_STATEMENTS[table], {"id": FIRST + at, "space": space, "person": person})
        time.sleep(chance.uniform(0, _OPEN))
        committing = time.monotonic()
        session.commit()
    return table, str(FIRST + at), space, committing


if __name__ == "__main__":
    _main()
