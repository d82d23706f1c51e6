"""The feed is read exactly once, whatever order transactions commit in."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.reader import Change, Reader
from pipeline.application.realtime.transports.session import Session
from pipeline.core.errors import PipelineError, TargetError
from pipeline.migrations import spaces
from pipeline_tests.support.subscribers import say, session, until
from pipeline_tests.support.targets import query

OPEN = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()"
)
MESSAGE = "INSERT INTO messages (id, space_id) VALUES (%s, 1)"


async def drain(reader: Reader, cursor: Cursor) -> tuple[list[Change], Cursor]:
    """What is unread, page by page."""
    found: list[Change] = []
    while True:
        page = await reader.page(cursor, topics=None)
        assert not page.missed
        found += page.changes
        cursor = page.cursor
        if page.done:
            return found, cursor


def read_keys(changes: list[Change]) -> list[str | None]:
    return [change.key for change in changes]


@pytest.fixture
def url(feed_url: str) -> str:
    return feed_url


async def opened(url: str, stack: AsyncExitStack, *, most: int = 500) -> Reader:
    made = Session(url)
    stack.push_async_callback(made.close)
    return Reader(made, spaces.metadata, most=most)


def test_an_earlier_id_that_commits_later_is_read_once(url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack)
            slow = await stack.enter_async_context(await session(url))
            cursor = await reader.now()
            await slow.execute(MESSAGE, (1,))
            say(url, 2)
            first, cursor = await drain(reader, cursor)
            assert read_keys(first) == ["2"]
            again, cursor = await drain(reader, cursor)
            assert again == []
            await slow.commit()
            second, cursor = await drain(reader, cursor)
            assert read_keys(second) == ["1"]
            assert second[0].id < first[0].id
            assert (await drain(reader, cursor))[0] == []

    asyncio.run(scenario())


def test_what_was_rolled_back_is_never_read_and_savepoints_belong_to_their_transaction(
    url: str,
) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack)
            writer = await stack.enter_async_context(await session(url))
            cursor = await reader.now()
            await writer.execute(MESSAGE, (1,))
            async with writer.transaction():
                await writer.execute(MESSAGE, (2,))
            await writer.execute("SAVEPOINT s")
            await writer.execute(MESSAGE, (3,))
            say(url, 9)
            found, cursor = await drain(reader, cursor)
            assert read_keys(found) == ["9"]
            await writer.execute("ROLLBACK TO s")
            await writer.execute(MESSAGE, (4,))
            await writer.commit()
            await writer.execute(MESSAGE, (5,))
            await writer.rollback()
            found, _ = await drain(reader, cursor)
            assert read_keys(found) == ["1", "2", "4"]

    asyncio.run(scenario())


def test_a_transaction_that_stays_open_delays_nobody_else(url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack)
            idle = await stack.enter_async_context(await session(url))
            await idle.execute(MESSAGE, (1000,))
            cursor, seen = await reader.now(), []
            for number in range(20):
                say(url, number)
                found, cursor = await drain(reader, cursor)
                seen += read_keys(found)
            assert seen == [str(number) for number in range(20)]
            await idle.commit()
            found, _ = await drain(reader, cursor)
            assert read_keys(found) == ["1000"]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_transactions_at_random_are_each_read_once_in_pages_of_any_length(
    url: str, seed: int
) -> None:
    rng = random.Random(seed)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack, most=rng.randint(1, 4))
            writers = [await stack.enter_async_context(await session(url)) for _ in range(5)]
            pending: list[set[str]] = [set() for _ in writers]
            committed: set[str] = set()
            cursor, seen, number = await reader.now(), [], 0
            for _ in range(150):
                at = rng.randrange(len(writers))
                act = rng.choice(["write", "write", "commit", "roll back", "read"])
                if act == "write":
                    number += 1
                    await writers[at].execute(MESSAGE, (number,))
                    pending[at].add(str(number))
                elif act == "commit":
                    await writers[at].commit()
                    committed |= pending[at]
                    pending[at] = set()
                elif act == "roll back":
                    await writers[at].rollback()
                    pending[at] = set()
                else:
                    # One page: the window stays open while others go on writing.
                    page = await reader.page(cursor, topics=None)
                    seen += read_keys(list(page.changes))
                    cursor = page.cursor
            for at, writer in enumerate(writers):
                await writer.commit()
                committed |= pending[at]
            while True:
                found, cursor = await drain(reader, cursor)
                seen += read_keys(found)
                if not found:
                    break
            assert sorted(seen) == sorted(committed)

    asyncio.run(scenario())


def test_what_was_pruned_unread_is_said_to_be_missed(url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack, most=1)
            cursor = await reader.now()
            say(url, 1, 2)
            page = await reader.page(cursor, topics=None)
            assert read_keys(list(page.changes)) == ["1"]
            query(url, "DELETE FROM feed.changes")
            query(url, "UPDATE feed.horizon SET pruned = pg_current_xact_id()")
            rest = await reader.page(page.cursor, topics=None)
            assert rest.missed
            say(url, 3)
            found, _ = await drain(reader, rest.cursor)
            assert read_keys(found) == ["3"]
            assert (await reader.page(cursor, topics=None)).missed

    asyncio.run(scenario())


def test_another_feed_and_one_that_was_set_back_are_said_to_be_missed(url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack)
            cursor = await reader.now()
            ahead = replace(cursor, since="900000000:900000000:")
            assert (await reader.page(ahead, topics=None)).missed
            query(url, "UPDATE feed.horizon SET epoch = gen_random_uuid()")
            page = await reader.page(cursor, topics=None)
            assert page.missed
            assert page.cursor.epoch != cursor.epoch
            assert not (await reader.page(page.cursor, topics=None)).missed

    asyncio.run(scenario())


def test_a_look_asks_the_index_of_a_feed_that_was_analyzed(url: str) -> None:
    query(
        url,
        "INSERT INTO feed.changes (topic, table_name, operation, key)"
        " SELECT 'space:' || g % 50, 'messages', 'INSERT', g::text"
        " FROM generate_series(1, 50000) g; ANALYZE feed.changes",
    )

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack)
            idle = await stack.enter_async_context(await session(url))
            await idle.execute(MESSAGE, (1000,))
            cursor = await reader.now()
            await stack.enter_async_context(await session(url))
            say(url, 1)
            query(url, "SELECT pg_stat_force_next_flush()")
            read = (
                "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0)"
                " FROM pg_stat_all_tables WHERE relid = 'feed.changes'::regclass"
            )
            ((before,),) = query(url, read)
            found, _ = await drain(reader, cursor)
            assert read_keys(found) == ["1"]
            await stack.aclose()
            # A session tells what it did when it has ended.
            await until(lambda: query(url, OPEN) == [(0,)])
            ((after,),) = query(url, read)
            assert 1 <= after - before < 100

    asyncio.run(scenario())


def test_a_cursor_is_kept_as_text(url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(url, stack, most=1)
            cursor = await reader.now()
            say(url, 1, 2)
            page = await reader.page(cursor, topics=None)
            for each in (cursor, page.cursor):
                assert Cursor.parse(str(each)) == each
            found, _ = await drain(reader, Cursor.parse(str(page.cursor)))
            assert read_keys(found) == ["2"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", "[" * 100_000, '{"a": 1}', '{"epoch": "x", "since": "1"}'),
        *('{"epoch": 1, "since": "1:1:"}', '{"epoch": "x", "since": 1}'),
        *(
            f'{{"epoch": "x", "since": "{since}"}}'
            for since in ("2:1:", "1:3:3", "1:3:2,1", "0:1:", "1:99999999999999999999:", "1:٣:")
        ),
        '{"epoch": "x", "since": "1:3:", "window": {"until": "3:3:", "after": 1, "last": "2"}}',
        '{"epoch": "x", "since": "1:3:", "window": {"until": "x", "after": 1, "last": 2}}',
        '{"epoch": "x", "since": "1:3:", "window": 1}',
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="not a cursor"):
        Cursor.parse(text)


def test_a_database_without_a_feed_is_told_with_what_to_do(target_url: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            reader = await opened(target_url, stack)
            with pytest.raises(TargetError, match="pipeline realtime on"):
                await reader.now()

    asyncio.run(scenario())
