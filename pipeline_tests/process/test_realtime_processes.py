"""Several processes, one of them killed; and how much memory a burst takes."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from pipeline.application.realtime.transports.events import Changed
from pipeline_tests.support.subscribers import PATIENT, keys, nothing, opened, say, take, until
from pipeline_tests.support.targets import query

_FOLLOW = """
import asyncio, sys
from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.limits import Limits
from pipeline.application.realtime.transports.listen import Listen
from pipeline.migrations import spaces

async def follow(url, path):
    with open(path, "a+") as log:
        log.seek(0)
        lines = [line.split(" ", 1) for line in log.read().splitlines(keepends=True)]
        told = {said for what, said in lines if what == "told"}
        at = [said for what, said in lines if what == "at"]
        since = Cursor.parse(at[-1]) if at else None
        async with Hub(Listen(url), url, spaces.metadata, limits=Limits(silence=0.2)) as hub:
            mine = hub.subscribe(topic="space:1", since=since)
            if since is None:
                print("at", mine.position, file=log, flush=True)
            async for event in mine:
                # What was taken after the position that was kept is told again.
                if f"{event.version}\\n" not in told:
                    print("told", event.version, file=log, flush=True)
                print("at", mine.position, file=log, flush=True)

asyncio.run(follow(*sys.argv[1:]))
"""


def follower(url: str, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _FOLLOW, url, str(log)])


def versions(log: Path) -> list[int]:
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [int(line.split()[1]) for line in whole if line.startswith("told ")]


def test_two_processes_follow_one_of_them_killed_and_going_on_from_what_it_kept(
    feed_url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        logs = [tmp_path / "one", tmp_path / "two"]
        running = [follower(feed_url, log) for log in logs]
        try:
            await until(lambda: all(log.exists() and log.stat().st_size for log in logs))
            for number in range(100):
                say(feed_url, number)
                if number == 50:
                    await until(lambda: len(versions(logs[0])) > 20)
                    os.kill(running[0].pid, signal.SIGKILL)
                    running[0].wait()
                    running[0] = follower(feed_url, logs[0])
            found = [each for (each,) in query(feed_url, "SELECT id FROM feed.changes ORDER BY id")]
            await until(lambda: all(len(versions(log)) >= 100 for log in logs))
            assert [versions(log) for log in logs] == [found, found]
        finally:
            for process in running:
                process.kill()
                process.wait()

    asyncio.run(scenario())


def test_a_burst_of_a_hundred_thousand_changes_takes_no_more_memory_than_a_small_one(
    feed_url: str,
) -> None:
    def burst(number: int) -> None:
        query(
            feed_url,
            "INSERT INTO feed.changes (topic, table_name, operation, key)"
            " SELECT 'space:1', 'messages', 'DELETE', g FROM generate_series(1, %s) g",
            (number,),
        )

    async def scenario() -> None:
        async with opened(feed_url, limits=replace(PATIENT, room=500)) as hub:
            stuck, quick = hub.subscribe(topic="space:1"), hub.subscribe(topic="space:1")
            await until(lambda: not stuck.behind and not quick.behind)

            async def consume(number: int) -> int:
                # The queue alone holds events; who takes them lets them go.
                return sum([isinstance(await anext(quick), Changed) for _ in range(number)])

            burst(2_000)
            assert await consume(2_000) == 2_000
            before = psutil.Process().memory_info().rss
            burst(100_000)
            assert await consume(100_000) == 100_000
            grown = psutil.Process().memory_info().rss - before
            assert grown < 16 << 20, f"{grown >> 20} MiB more"
            assert stuck.behind
            assert hub.metrics.most_waiting <= 500
            assert keys(await take(stuck, 3)) == [1, 2, 3]

    asyncio.run(scenario())


def test_ten_thousand_changes_of_four_writers_reach_fifty_subscribers_once(feed_url: str) -> None:
    """In transactions, savepoints and rollbacks; each row's changes in their order."""
    block = """
      DO $$ BEGIN FOR i IN 1..125 LOOP
        BEGIN
          INSERT INTO messages (id, space_id) SELECT {at} * 100000 + i * 100 + g, 1
            FROM generate_series(1, 20) g;
          IF i % 5 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
        COMMIT;
        IF i % 7 = 0 THEN
          INSERT INTO messages (id, space_id) VALUES ({at} * 100000 + i * 100 + 99, 1);
          ROLLBACK;
        END IF;
      END LOOP; END $$"""

    async def scenario() -> None:
        async with opened(feed_url) as hub:
            everyone = [hub.subscribe(topic="space:1") for _ in range(50)]
            writing = asyncio.gather(*(_autocommitted(feed_url, block, at) for at in range(4)))
            logs = await asyncio.gather(*(take(each, 8_000, seconds=30) for each in everyone))
            await writing
            assert await nothing(everyone[0])
            found = query(feed_url, "SELECT key::int FROM feed.changes ORDER BY 1")
            assert sorted(keys(logs[0])) == [key for (key,) in found]
            assert all(log == logs[0] for log in logs)
            query(feed_url, "UPDATE messages SET content = 'once more' WHERE id % 4 = 0")
            changed = [event for event in await take(everyone[1], 2_000) if event.topic]
            assert keys(changed) == sorted(keys(changed))

    asyncio.run(scenario())


async def _autocommitted(url: str, block: str, at: int) -> None:
    def run() -> None:
        import psycopg2

        connection = psycopg2.connect(url)
        connection.autocommit = True
        connection.cursor().execute(block.format(at=at))
        connection.close()

    await asyncio.to_thread(run)
