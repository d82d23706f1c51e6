"""The writing application, in its own process so that subscribers do not delay it.

Several sessions insert messages, notes, progress and new members at a steady rate; their
transactions commit in a different order than they start. Every write inserts one row, because
polling sees only the latest state of a row. The order arrives as a line of JSON on standard input,
so no password appears in the list of processes.
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
"""The application name of these sessions."""
FIRST = 1_000_000
"""The first id that is written; rows of the fixture have smaller ids."""
SESSIONS = 4
_OPEN_SECONDS = 0.02
"""The longest time that a transaction stays open."""
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
    """What to write.

    Attributes:
        url: a libpq URL.
        users: number of users.
        members_per_space: number of users in a space.
        rate: writes per second.
        seconds: duration.
        seed: selects users and tables, and how long transactions stay open.
    """

    url: str
    users: int
    members_per_space: int
    rate: float
    seconds: float
    seed: int


@dataclass(frozen=True)
class Write:
    """A committed row; ``at`` is the monotonic time at which COMMIT was sent."""

    table: str
    key: str
    space: int
    at: float


class Load:
    """A handle for the writing process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Wrap a process that is ready to write."""
        self._process = process

    async def start_at(self, at: float) -> None:
        """Start writing at a time of the monotonic clock."""
        await _send(self._process, at)

    async def written(self) -> list[Write]:
        """Wait for the end of the process and return what it committed.

        Raises:
            TargetError: the process failed.
        """
        return [Write(*each) for each in await _receive(self._process)]


@asynccontextmanager
async def started(order: Order) -> AsyncIterator[Load]:
    """The writing process, connected and waiting for its start time.

    Raises:
        TargetError: the process cannot connect.
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
        await _send(process, asdict(order))
        await _receive(process)
        yield Load(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _send(process: asyncio.subprocess.Process, message: Any) -> None:
    if process.stdin is None:
        return
    process.stdin.write(json.dumps(message).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()


async def _receive(process: asyncio.subprocess.Process) -> Any:
    line = await process.stdout.readline() if process.stdout else b""
    answer = json.loads(line) if line else {"failed": "its process has ended"}
    if isinstance(answer, dict):
        raise TargetError(
            f"The writing application failed: {answer['failed']}", remedy="Measure again"
        )
    return answer


def _main() -> None:
    # The measuring process handles Ctrl-C and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        sessions = [_connect(order.url) for _ in range(SESSIONS)]
        print("[]", flush=True)
        written = _write_all(order, sessions, start=json.loads(sys.stdin.readline()))
    except TargetError as refused:
        print(json.dumps({"failed": refused.problem}), flush=True)
        return
    except psycopg2.Error as error:
        failed = TargetError.from_driver(error, where="the scratch database", url=order.url)
        print(json.dumps({"failed": failed.problem}), flush=True)
        return
    print(json.dumps(written), flush=True)


def _connect(url: str) -> Any:
    where = "the scratch database"
    return connect(url, shown=where, application_name=NAME, settings=APPLICATION, autocommit=False)


def _write_all(
    order: Order, sessions: list[Any], *, start: float
) -> list[tuple[str, str, int, float]]:
    def one(number: int) -> list[tuple[str, str, int, float]]:
        writes = range(number, round(order.rate * order.seconds), SESSIONS)
        with closing(sessions[number]) as session:
            return [_write(order, session, n, due=start + n / order.rate) for n in writes]

    with ThreadPoolExecutor(SESSIONS) as pool:
        return [write for writes in pool.map(one, range(SESSIONS)) for write in writes]


def _write(order: Order, session: Any, number: int, *, due: float) -> tuple[str, str, int, float]:
    rng = random.Random(order.seed * 1_000_003 + number)
    person, table = rng.randint(1, order.users), _KINDS[number % len(_KINDS)]
    space = (person - 1) // order.members_per_space + 1
    time.sleep(max(0.0, due - time.monotonic()))
    with session.cursor() as cursor:
        cursor.execute(_STATEMENTS[table], {"id": FIRST + number, "space": space, "person": person})
        time.sleep(rng.uniform(0, _OPEN_SECONDS))
        committing = time.monotonic()
        session.commit()
    return table, str(FIRST + number), space, committing


if __name__ == "__main__":
    _main()
