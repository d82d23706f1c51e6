"""A session that prepares its statements, and subscribers whom nobody wakes for nothing."""

import asyncio
from typing import Any

import pytest
from psycopg import sql

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Changed
from pipeline.application.realtime.transports.session import Session
from pipeline.core.errors import TargetError
from pipeline_tests.support.targets import query

_ASK = sql.SQL("SELECT * FROM things WHERE id = %(id)s")
_PREPARED = sql.SQL("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql")


async def ask(session: Session, *, times: int = 1) -> list[tuple[Any, ...]]:
    for _ in range(times):
        found = await session.rows(_ASK, {"id": 1})
    return found


def test_what_comes_again_is_prepared_and_planned_anew_when_its_table_changes(
    target_url: str,
) -> None:
    async def run() -> None:
        session = Session(target_url)
        assert await ask(session, times=4) == [(1, 7)]
        assert await session.rows(_PREPARED, {}) == [(1,)]
        query(target_url, "ALTER TABLE things ALTER n TYPE text")
        with pytest.raises(TargetError, match="must not change result type"):
            await ask(session)
        assert await ask(session, times=4) == [(1, "7")]
        await session.close()

    query(target_url, "CREATE TABLE things (id int, n int); INSERT INTO things VALUES (1, 7)")
    asyncio.run(run())


def test_behind_a_pooler_that_knows_no_prepared_statement_none_is_prepared_any_more(
    target_url: str,
) -> None:
    async def run() -> None:
        session = Session(target_url)
        await ask(session, times=4)
        # Forgotten behind the driver's back, as in another session.
        await session.rows(sql.SQL("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"), {})
        with pytest.raises(TargetError, match=r"prepared statement .* does not exist"):
            await ask(session)
        assert await ask(session, times=4) == [(1, 7)]
        assert await session.rows(_PREPARED, {}) == [(0,)]
        await session.close()

    query(target_url, "CREATE TABLE things (id int, n int); INSERT INTO things VALUES (1, 7)")
    asyncio.run(run())


def change(version: int) -> Changed:
    return Changed("space:1", "notes", "INSERT", str(version), version, {"id": version})


def test_a_position_follows_without_a_wake_but_not_past_an_event_in_hand() -> None:
    async def run() -> None:
        told = Subscription(
            topic=None,
            names=None,
            cursor=Cursor("e", "1:1:"),
            room=9,
            resumed=False,
            on_drained=lambda _: None,
        )
        told.behind = False
        taken = list[Changed]()
        begun, done = asyncio.Event(), asyncio.Event()

        async def take() -> None:
            async for event in told:
                assert isinstance(event, Changed)
                taken.append(event)
                begun.set()
                await done.wait()

        task = asyncio.create_task(take())
        await asyncio.sleep(0)
        told.reach(Cursor("e", "2:2:"))
        assert told.position == Cursor("e", "2:2:")
        told.offer(change(1))
        await begun.wait()
        # It is in hand, and may be lost with who handles it.
        told.reach(Cursor("e", "4:4:"))
        assert told.position == Cursor("e", "2:2:")
        done.set()
        while told.position != Cursor("e", "4:4:"):
            await asyncio.sleep(0)
        told.close()
        await task
        assert taken == [change(1)]

    asyncio.run(asyncio.wait_for(run(), 10))
