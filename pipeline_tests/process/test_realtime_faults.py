"""Faults of servers: restarts, replicas, dumps, forgotten transactions, a queue that is full."""

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.transports.events import Resync
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.postgres.embedded import postmaster
from pipeline.postgres.embedded.server import ensure_server, leave
from pipeline_tests.support.feeds import switch_on
from pipeline_tests.support.servers import restart
from pipeline_tests.support.subscribers import (
    QUICK,
    keys,
    make_feed,
    nothing,
    opened,
    say,
    session,
    take,
    until,
)
from pipeline_tests.support.targets import query

BIN = postmaster.programs()
_numbers = itertools.count()


@dataclass(frozen=True)
class Own:
    """A server that tests may stop."""

    data: Path
    server: URL

    def copy(self, name: str, *, template: str = "world") -> URL:
        """A database like another one."""
        with closing(psycopg2.connect(libpq(self.server))) as connection:
            connection.autocommit = True
            connection.cursor().execute(
                f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
            )
        return self.server.set(database=name)

    def run(self, program: str, *arguments: str, given: bytes | None = None) -> bytes:
        """What a program of the server's says, run as the server's user."""
        return subprocess.run(
            [BIN / program, *arguments],
            user=self.data.stat().st_uid,
            input=given,
            capture_output=given is not None or program != "pg_ctl",
            cwd="/",
            timeout=60,
            check=True,
        ).stdout


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    folder = Path(tempfile.mkdtemp(prefix=f"flt{os.getpid()}"))
    server = ensure_server(folder / "data")
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        for setting, value in {
            "max_notify_queue_pages": 64,
            "max_prepared_transactions": 5,
        }.items():
            connection.cursor().execute(f"ALTER SYSTEM SET {setting} = {value}")
    restart(folder / "data", "fast")
    made = Own(folder / "data", server)
    make_feed(libpq(made.copy("world", template="template1")))
    yield made
    leave(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(own: Own) -> URL:
    # Nothing is dropped: no session outlives the restarts, and the server goes as a whole.
    return own.copy(f"faults_{next(_numbers)}")


@pytest.fixture
def url(database: URL) -> str:
    return libpq(database)


def test_a_prepared_transaction_is_told_once_when_it_is_committed(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            writer = await session(url)
            await writer.tpc_begin(writer.xid(1, "g", "b"))
            # PostgreSQL prepares nothing that has notified somebody.
            await writer.execute("SET LOCAL test.silent = 'on'")
            await writer.execute("INSERT INTO messages (id, space_id) VALUES (1, 1)")
            await writer.tpc_prepare()
            await writer.close()
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]
            assert await nothing(mine)
            kept = str(mine.position)
            (gid,) = query(url, "SELECT gid FROM pg_prepared_xacts")[0]
            with closing(psycopg2.connect(url)) as connection:
                connection.autocommit = True
                connection.cursor().execute("COMMIT PREPARED %s", (gid,))
            assert keys(await take(mine, 1)) == [1]
            assert await nothing(mine)
            again = hub.subscribe(topic="space:1", since=Cursor.parse(kept))
            assert keys(await take(again, 1)) == [1]
            assert hub.metrics.resyncs == 0

    asyncio.run(scenario())


def test_whoever_read_all_that_was_pruned_missed_nothing_whatever_transaction_stays_open(
    url: str,
) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub, await session(url) as forgotten:
            await forgotten.execute("INSERT INTO messages (id, space_id) VALUES (1, 1)")
            mine = hub.subscribe(topic="space:1")
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]
            assert await nothing(mine)
            query(url, "UPDATE feed.changes SET at = 'yesterday'")
            assert query(url, "SELECT feed.prune('1 hour', 10)") == [(1,)]
            say(url, 3)
            assert keys(await take(mine, 1)) == [3]
            await forgotten.rollback()
            say(url, 4)
            # Nobody can tell whether what it wrote was pruned, so it is said once.
            assert await take(mine, 1) == [Resync()]
            say(url, 5)
            assert keys(await take(mine, 1)) == [5]

    asyncio.run(scenario())


def test_dates_of_changes_decide_nothing_but_what_is_pruned(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            for number, at in enumerate(("-infinity", "1970-01-01", "infinity", "2999-01-01")):
                query(
                    url,
                    "INSERT INTO feed.changes (at, topic, table_name, operation, key)"
                    " VALUES (%s, 'space:1', 'messages', 'DELETE', %s)",
                    (at, number),
                )
            assert keys(await take(mine, 4)) == [0, 1, 2, 3]

    asyncio.run(scenario())


def test_while_the_queue_of_notify_is_full_writes_go_on_and_subscribers_are_told(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub, await session(url) as idle:
            await idle.execute("LISTEN feed")
            await idle.commit()
            await idle.execute("SELECT 1")
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            with suppress(psycopg2.Error):
                for number in range(100):
                    query(url, "SELECT pg_notify('noise', repeat('x', 7900) || %s)", (number,))
            assert query(url, "SELECT pg_notification_queue_usage() > 0.9") == [(True,)]
            say(url, *range(50))
            assert keys(await take(mine, 50)) == [*range(50)]
            assert hub.metrics.healed == 50
            query(url, "SELECT feed.send('space:1', 'typing:changed', '{\"member\": \"7\"}')")
            query(url, "TRUNCATE messages")
            assert len(await take(mine, 1)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_restart_in_the_middle_of_a_burst_loses_and_doubles_nothing(
    own: Own, url: str, how: str
) -> None:
    stop = threading.Event()

    def write(at: int) -> None:
        for number in itertools.count(at, 2):
            if stop.is_set():
                return
            with suppress(psycopg2.Error):
                say(url, number)

    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            writers = [threading.Thread(target=write, args=(at,)) for at in (1, 2)]
            for writer in writers:
                writer.start()
            log = await take(mine, 20)
            await asyncio.to_thread(restart, own.data, how)
            log += await take(mine, 40)
            stop.set()
            for writer in writers:
                await asyncio.to_thread(writer.join)
            found = [int(key) for (key,) in query(url, "SELECT key FROM feed.changes ORDER BY id")]
            log += await take(mine, len(found) - len(log))
            assert await nothing(mine)
            assert sorted(keys(log)) == sorted(found)
            assert hub.metrics.resyncs == 0

    asyncio.run(scenario())


def test_a_feed_that_was_dumped_and_restored_elsewhere_is_another_one(own: Own, url: str) -> None:
    dump = own.run("pg_dump", "--no-owner", "-d", url)

    async def read_on(other: str, kept: str) -> None:
        async with opened(other, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1", since=Cursor.parse(kept))
            assert await take(mine, 1) == [Resync()]
            say(other, 2)
            assert keys(await take(mine, 1)) == [2]

    async def scenario() -> str:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            say(url, 1)
            await take(mine, 1)
            assert await nothing(mine)
            return str(mine.position)

    kept = asyncio.run(scenario())
    other = libpq(own.copy("restored", template="template1"))
    own.run("psql", "-q", "-d", other, given=dump)
    epoch = "SELECT epoch FROM feed.horizon"
    assert query(url, epoch) == query(other, epoch)
    asyncio.run(read_on(other, kept))


@pytest.mark.parametrize(
    "brought",
    [
        "INSERT INTO feed.changes (xid, topic, table_name, operation, key)"
        " VALUES ('900000000', 'space:1', 'messages', 'DELETE', '9')",
        "UPDATE feed.horizon SET pruned = '900000000'",
    ],
)
def test_changes_that_a_dump_brought_from_a_server_that_was_ahead_are_refused_and_mended(
    url: str, brought: str
) -> None:
    async def scenario() -> None:
        errors: list[Exception] = []
        async with opened(url, limits=QUICK, errors=errors) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            query(url, brought)
            await until(lambda: errors)
            assert "changes of another server" in str(errors[0])
            switch_on(url)
            assert await take(mine, 1) == [Resync()]
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]
            assert await nothing(mine)

    asyncio.run(scenario())


def test_a_replica_is_refused_and_once_it_has_taken_over_subscribers_read_anew(
    own: Own, url: str
) -> None:
    async def scenario() -> None:
        errors: list[Exception] = []
        async with opened(url, limits=QUICK, errors=errors) as hub:
            mine = hub.subscribe(topic="space:1")
            say(url, 1)
            assert keys(await take(mine, 1)) == [1]
            # The server comes back as a replica that nobody feeds.
            (own.data / "standby.signal").touch()
            await asyncio.to_thread(restart, own.data, "fast")
            await until(lambda: any("standby" in str(error) for error in errors))
            assert all(isinstance(error, TargetError) for error in errors)
            await asyncio.to_thread(own.run, "pg_ctl", "-D", str(own.data), "-w", "promote")
            assert await take(mine, 1) == [Resync()]
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]

    asyncio.run(scenario())


def test_sockets_that_are_dropped_at_random_for_a_second_lose_and_double_nothing(url: str) -> None:
    def cut() -> None:
        until_then = time.monotonic() + 1
        while time.monotonic() < until_then:
            query(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name"
                " = 'pipeline realtime' AND datname = current_database() AND random() < 0.5",
            )
            time.sleep(0.03)

    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            cutting = asyncio.create_task(asyncio.to_thread(cut))
            number = 0
            while not cutting.done():
                await asyncio.to_thread(say, url, number)
                number += 1
            assert keys(await take(mine, number)) == [*range(number)]
            assert await nothing(mine)
            assert hub.metrics.reconnects > 0

    asyncio.run(scenario())
