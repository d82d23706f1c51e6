"""Every subscriber is told every change once, in order, whatever happens to hints and sessions."""

import asyncio
import gc
import random
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.reader import Page
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import (
    Changed,
    MessageNew,
    Resync,
    TypingChanged,
)
from pipeline.application.realtime.transports.listen import Listen
from pipeline.application.realtime.transports.transport import Received
from pipeline.config.settings import libpq
from pipeline.core.errors import PipelineError, TargetError
from pipeline.declared.rules import TableRules
from pipeline.migrations import spaces
from pipeline_tests.support.proxy import proxied
from pipeline_tests.support.servers import restart
from pipeline_tests.support.subscribers import (
    PATIENT,
    QUICK,
    keys,
    nothing,
    opened,
    say,
    take,
    until,
)
from pipeline_tests.support.targets import query


@pytest.fixture
def url(feed_url: str) -> str:
    return feed_url


def test_a_message_is_told_with_its_row_and_a_deleted_one_without(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            chat, table = (
                hub.subscribe(["message:new"], topic="space:1"),
                hub.subscribe(["messages"]),
            )
            await until(lambda: not chat.behind and not table.behind)
            say(url, 7)
            (event,), (inserted,) = await take(chat, 1), await take(table, 1)
            assert isinstance(event, MessageNew)
            assert inserted == event
            assert (event.topic, event.table, event.operation) == ("space:1", "messages", "INSERT")
            assert event.row is not None
            assert event.row["content"] == "said 7"
            assert set(event.row) == {*TableRules.of(spaces.messages).published.columns}
            query(url, "UPDATE messages SET content = 'mended'")
            query(url, "DELETE FROM messages")
            updated, deleted = await take(table, 2)
            assert isinstance(updated, Changed)
            assert isinstance(deleted, Changed)
            assert (updated.operation, deleted.operation, deleted.row) == ("UPDATE", "DELETE", None)
            assert event.version < updated.version < deleted.version
            assert await nothing(chat)

    asyncio.run(scenario())


def test_who_subscribes_during_a_read_keeps_up_before_it_waits_for_events(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            late: list[Subscription] = []
            read = hub._reader.page

            async def page(*given: Any, **named: Any) -> Page:
                found = await read(*given, **named)
                late.extend([] if late else [hub.subscribe(topic="space:1")])
                return found

            other = hub.subscribe(topic="space:2")
            await until(lambda: not other.behind)
            monkeypatch.setattr(hub._reader, "page", page)
            say(url, 1, space=2)
            assert keys(await take(other, 1)) == [1]
            await until(lambda: not late[0].behind, seconds=5)
            say(url, 2)
            assert keys(await take(late[0], 1)) == [2]

    asyncio.run(scenario())


def test_only_topics_that_somebody_listens_to_are_read(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            before = hub.metrics.reads
            say(url, *range(100), space=2)
            # No hint says whose topic it is, because anybody hears it.
            await until(lambda: hub.metrics.reads > before)
            assert hub.metrics.rows_read == 0
            say(url, 101)
            assert keys(await take(mine, 1)) == [101]
            assert hub.metrics.rows_read == 1

    asyncio.run(scenario())


def test_hints_that_are_lost_are_healed_by_silence(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            query(
                url,
                "SET test.silent = 'on'; INSERT INTO messages (id, space_id)"
                " SELECT g, 1 FROM generate_series(1, 30) g",
            )
            assert keys(await take(mine, 30)) == [*range(1, 31)]
            assert hub.metrics.healed == 30

    asyncio.run(scenario())


def test_hints_that_are_doubled_or_cannot_be_read_tell_nothing_twice(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            say(url, 1)
            for hint in ("space:1", "space:1", "{", '{"topic": 1}', '{"topic": "a", "event": "b"}'):
                query(url, "SELECT pg_notify('feed', %s)", (hint,))
            say(url, 2)
            assert keys(await take(mine, 2)) == [1, 2]
            assert await nothing(mine)
            assert hub.metrics.healed == 0

    asyncio.run(scenario())


def test_a_slow_subscriber_catches_up_from_the_feed_and_delays_nobody(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=replace(PATIENT, room=10, page=7)) as hub:
            slow, quick = hub.subscribe(topic="space:1"), hub.subscribe(topic="space:1")
            taken: list[int] = []

            async def consume() -> None:
                async for event in quick:
                    taken.append(int(event.key))  # noqa: PERF401

            task = asyncio.create_task(consume())
            await until(lambda: not slow.behind)
            for number in range(60):
                say(url, number)
                await asyncio.sleep(0.002)
            say(url, *range(60, 100))
            await until(lambda: len(taken) == 100)
            assert taken == [*range(100)]
            assert slow.behind
            assert slow.most <= 10
            assert keys(await take(slow, 100)) == [*range(100)]
            say(url, 100)
            assert keys(await take(slow, 1)) == [100]
            assert await nothing(slow)
            assert not slow.behind
            assert hub.metrics.lagging >= 1
            assert hub.metrics.most_waiting <= 10
            task.cancel()

    asyncio.run(scenario())


def test_ten_thousand_changes_of_one_transaction_are_told_in_bounded_memory(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            query(
                url,
                "INSERT INTO messages (id, space_id) SELECT g, 1 FROM generate_series(1, 10000) g",
            )
            assert keys(await take(mine, 10_000)) == [*range(1, 10_001)]
            assert hub.metrics.most_waiting <= hub.limits.room

    asyncio.run(scenario())


WRITER = """
DO $$ BEGIN
  FOR i IN 1..2500 LOOP
    INSERT INTO feed.changes (topic, table_name, operation, key)
      VALUES ('space:1', 'messages', 'DELETE', {at} * 2500 + i);
    PERFORM pg_notify('feed', 'space:1');
    -- Others take later ids and commit before this one does.
    IF i % 10 = 0 THEN PERFORM pg_sleep(random() * 0.002); END IF;
    COMMIT;
  END LOOP;
END $$"""


def test_ten_thousand_transactions_that_commit_in_another_order_are_told_once(url: str) -> None:
    def write(at: int) -> None:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(WRITER.format(at=at))

    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            writers = [threading.Thread(target=write, args=(at,)) for at in range(4)]
            for writer in writers:
                writer.start()
            events = await take(mine, 10_000, seconds=40)
            for writer in writers:
                writer.join()
            assert await nothing(mine)
            seen = keys(events)
            assert sorted(seen) == [*range(1, 10_001)]
            for at in range(4):
                own = [key for key in seen if at * 2500 < key <= (at + 1) * 2500]
                assert own == sorted(own)
            versions = [event.version for event in events if isinstance(event, Changed)]
            assert versions != sorted(versions), "nobody committed in another order"

    asyncio.run(scenario())


def test_a_hundred_subscribers_are_told_each_change_once_and_in_order_of_each_row(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=replace(PATIENT, room=40)) as hub:
            all_of_them = [hub.subscribe(topic="space:1") for _ in range(100)]
            say(url, *range(50))
            query(url, "UPDATE messages SET content = 'again'")
            query(url, "DELETE FROM messages WHERE id % 2 = 0")
            logs = await asyncio.gather(*(take(each, 125) for each in all_of_them))
            for log in logs:
                assert log == logs[0]
            of_row: dict[str, list[str]] = {}
            for event in logs[0]:
                assert isinstance(event, Changed)
                of_row.setdefault(event.key, []).append(event.operation)
            for key, operations in of_row.items():
                rest = [] if int(key) % 2 else ["DELETE"]
                assert operations == ["INSERT", "UPDATE", *rest]

    asyncio.run(scenario())


def test_a_feed_that_was_pruned_or_made_anew_tells_subscribers_to_read_anew(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            say(url, 1)
            assert keys(await take(mine, 1)) == [1]
            query(
                url,
                "UPDATE feed.horizon SET pruned ="
                " (pg_current_xact_id()::text::int8 + 1)::text::xid8",
            )
            query(url, "NOTIFY feed, 'space:1'")
            assert await take(mine, 1) == [Resync()]
            query(url, "UPDATE feed.horizon SET epoch = gen_random_uuid(), pruned = NULL")
            query(url, "NOTIFY feed, 'space:1'")
            assert await take(mine, 1) == [Resync()]
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]
            assert hub.metrics.resyncs == 2

    asyncio.run(scenario())


def test_a_subscriber_goes_on_where_it_was_in_another_process(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            say(url, 1, 2)
            await take(mine, 2)
            # By asking for the next one it says that it is done with these.
            assert await nothing(mine)
            kept = str(mine.position)
        say(url, 3, 4)
        async with opened(url) as hub:
            again = hub.subscribe(topic="space:1", since=Cursor.parse(kept))
            assert keys(await take(again, 2)) == [3, 4]
            say(url, 5)
            assert keys(await take(again, 1)) == [5]
            # This one is newer than the last look of a hub that was told nothing.
            async with opened(url) as other:
                late = other.subscribe(topic="space:1")
                await until(lambda: not late.behind)
                say(url, 6)
                assert keys(await take(late, 1)) == [6]
                assert await nothing(late)
                newer = hub.subscribe(topic="space:9", since=late.position)
                assert await nothing(newer)
                assert hub.metrics.resyncs == 0

    asyncio.run(scenario())


def test_who_comes_late_is_told_the_last_events_and_none_of_them_twice(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            for number in range(20):
                say(url, number)
            *_, last = await take(mine, 20)
            late = hub.subscribe(["message:new"], topic="space:1", replay=5)
            # As when it comes while they are being told.
            assert late.offer(last)
            say(url, 20)
            assert keys(await take(late, 6)) == [*range(15, 21)]
            assert await nothing(late)

    asyncio.run(scenario())


def test_fleeting_events_of_any_size_arrive_and_are_no_changes(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(["typing:changed"], topic="space:1")
            small = TypingChanged("space:1", "7", payload={"draft": "สวัสดี"})
            large = TypingChanged("space:1", "7", payload={"draft": "ก" * 9000})
            await hub.send(small)
            assert await take(mine, 1) == [small]
            await hub.send(large)
            assert await take(mine, 1) == [large]
            assert query(url, "SELECT count(*) FROM feed.changes") == [(0,)]
            other = hub.subscribe(["typing:changed"], topic="space:2")
            await hub.send(replace(small, topic="space:2"))
            assert await take(other, 1) == [replace(small, topic="space:2")]
            assert await nothing(mine)
            assert await nothing(hub.subscribe(["typing:changed"], topic="space:2"))

    asyncio.run(scenario())


def test_fleeting_events_for_which_there_is_no_room_are_dropped_and_counted(url: str) -> None:
    async def scenario() -> None:
        async with opened(url, limits=replace(PATIENT, room=3)) as hub:
            mine = hub.subscribe(topic="space:1")
            for number in range(5):
                await hub.send(TypingChanged("space:1", str(number)))
            await until(lambda: hub.metrics.fleeting_dropped == 2)
            say(url, 1)
            events = await take(mine, 4)
            assert [each.member for each in events[:3] if isinstance(each, TypingChanged)] == [
                *"012"
            ]
            assert keys(events[3:]) == [1]

    asyncio.run(scenario())


def test_rows_that_python_has_no_value_for_stop_nobody(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            deep = "[" * 3000 + "]" * 3000
            query(
                url,
                "INSERT INTO messages (id, space_id, created_at, attachments)"
                " VALUES (1, 1, 'infinity', %s), (2, 1, '0044-03-15 BC', '9')",
                (deep,),
            )
            first, second = await take(mine, 2)
            assert isinstance(first, Changed)
            assert isinstance(second, Changed)
            assert first.row is not None
            assert second.row is not None
            assert (first.row["created_at"], first.row["attachments"]) == ("infinity", deep)
            assert str(second.row["created_at"]).endswith("BC")

    asyncio.run(scenario())


def test_dropped_sockets_lose_and_double_nothing(url: str) -> None:
    async def scenario() -> None:
        with proxied(make_url(url)) as proxy:
            errors: list[Exception] = []
            async with opened(libpq(proxy.url), errors=errors) as hub:
                mine, seen = hub.subscribe(topic="space:1"), 0
                for marker in (b"feed.horizon", b"feed.changes", b"FROM", b"LISTEN"):
                    proxy.plan("lose the answer" if marker == b"FROM" else "reset", marker)
                    say(url, *range(seen, seen + 20))
                    if marker == b"LISTEN":
                        end_sessions(url)
                    assert keys(await take(mine, 20)) == [*range(seen, seen + 20)]
                    await until(lambda: proxy.broken == 1)
                    seen += 20
                assert await nothing(mine)
                assert errors
                assert all(isinstance(error, TargetError) for error in errors)

    asyncio.run(scenario())


def end_sessions(url: str) -> None:
    query(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pipeline realtime' AND datname = current_database()",
    )


def test_a_restart_of_the_server_loses_and_doubles_nothing(own_feed: tuple[Path, str]) -> None:
    data, url = own_feed

    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            say(url, 1)
            assert keys(await take(mine, 1)) == [1]
            for how, number in (("fast", 2), ("immediate", 4)):
                say(url, number)
                await asyncio.to_thread(restart, data, how)
                say(url, number + 1)
                assert keys(await take(mine, 2)) == [number, number + 1]
            assert await nothing(mine)
            await until(lambda: hub.connected)
            assert hub.metrics.reconnects >= 2
            assert hub.metrics.resyncs == 0

    asyncio.run(scenario())


def test_while_nothing_can_be_listened_to_the_feed_is_polled(url: str) -> None:
    class Deaf(Listen):
        deaf = False

        async def connect(self) -> None:
            if self.deaf:
                raise PipelineError("Nobody answers", remedy="Wait")
            await super().connect()

    async def scenario() -> None:
        transport = Deaf(url)
        limits = replace(PATIENT, poll=0.02, failures=2)
        async with opened(url, limits=limits, transport=transport) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            transport.deaf = True
            end_sessions(url)
            await until(lambda: hub.metrics.errors >= 3)
            say(url, 1)
            assert keys(await take(mine, 1)) == [1]
            transport.deaf = False
            await until(lambda: hub.connected)
            say(url, 2)
            assert keys(await take(mine, 1)) == [2]

    asyncio.run(scenario())


def test_what_was_committed_while_nobody_listened_is_read_on_coming_back(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            query(
                url,
                "SET test.silent = 'on'; INSERT INTO messages (id, space_id) VALUES (1, 1)",
            )
            assert await nothing(mine, seconds=0.05)
            end_sessions(url)
            assert keys(await take(mine, 1)) == [1]
            assert hub.metrics.healed == 1

    asyncio.run(scenario())


def test_closing_leaves_no_task_no_session_and_no_warning(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = hub.subscribe(topic="space:1")
            await hub.send(TypingChanged("space:1", "7"))
            await take(mine, 1)
            waiting = asyncio.create_task(take(mine, 1))
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(scenario())
        gc.collect()
    assert sessions(url) == 0


def sessions(url: str) -> Any:
    counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pipeline realtime'"
    return query(url, f"{counted} AND datname = current_database()")[0][0]


def test_whoever_leaves_while_others_catch_up_disturbs_nobody(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            first, second = hub.subscribe(topic="space:1"), hub.subscribe(topic="space:1")
            stays, read = hub.subscribe(topic="space:1"), hub._reader.page

            async def page(*given: Any, **more: Any) -> Any:
                for each in (first, second):
                    hub.unsubscribe(each)
                return await read(*given, **more)

            monkeypatch.setattr(hub._reader, "page", page)
            say(url, 1)
            assert keys(await take(stays, 1)) == [1]

    asyncio.run(scenario())


def test_the_feed_is_looked_at_in_time_though_somebody_never_stops_catching_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine, busy = hub.subscribe(topic="space:1"), hub.subscribe(topic="space:2")
            await until(lambda: not mine.behind and not busy.behind)
            caught_up = hub._catch_up

            async def never(subscription: Any) -> None:
                await caught_up(subscription)
                if subscription is busy:
                    hub._on_drained(busy)

            monkeypatch.setattr(hub, "_catch_up", never)
            hub._on_drained(busy)
            query(url, "SET test.silent = 'on'; INSERT INTO messages (id, space_id) VALUES (1, 1)")
            assert keys(await take(mine, 1, seconds=3)) == [1]

    asyncio.run(scenario())


def test_a_hub_that_is_cancelled_at_any_moment_leaves_nothing(url: str) -> None:
    async def use(number: int) -> None:
        async with Hub(Listen(url), url, spaces.metadata, limits=QUICK) as hub:
            mine = hub.subscribe(topic="space:1")
            while True:
                query(url, f"SELECT pg_notify('feed', 'space:1') /* {number} */")
                await nothing(mine, seconds=0.001)

    async def scenario() -> None:
        rng = random.Random(7)
        for number in range(200):
            task = asyncio.create_task(use(number))
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
            if number % 3 == 0:
                # Once more, while it gives back what it holds.
                await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(scenario())
        gc.collect()
    assert sessions(url) == 0


def test_a_hub_without_a_database_or_a_feed_says_so_at_once(target_url: str) -> None:
    async def scenario(url: str, detail: str) -> None:
        with pytest.raises(TargetError, match=detail) as caught:
            async with Hub(Listen(url), url, spaces.metadata):
                pass
        assert "geheim" not in str(caught.value)
        assert caught.value.__cause__ is None

    asyncio.run(scenario(target_url, "pipeline realtime on"))
    nobody = "postgresql://postgres:geheim@127.0.0.1:1/postgres"
    asyncio.run(scenario(nobody, "Check the host and port"))
    pooler = "postgresql://postgres:geheim@aws-0-x.pooler.supabase.com:6543/postgres"
    asyncio.run(scenario(pooler, "5432"))


def test_what_nobody_ever_tells_cannot_be_subscribed_to(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            with pytest.raises(PipelineError, match="space_members"):
                hub.subscribe(["session"])
        with pytest.raises(PipelineError, match="not open"):
            hub.subscribe(["messages"])

    asyncio.run(scenario())


def test_a_fault_of_the_hub_itself_is_told_and_it_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        errors: list[Exception] = []

        def handle(error: PipelineError) -> None:
            errors.append(error)
            raise ValueError("the handler fails, too")

        class Faulty(Listen):
            async def signals(self) -> AsyncIterator[Received]:
                async for signal in super().signals():
                    if len(errors) < 2:
                        raise KeyError
                    yield signal

        hub = Hub(Faulty(url), url, spaces.metadata, limits=QUICK, on_error=handle)
        async with hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind and hub.connected)
            with monkeypatch.context() as patch:
                patch.setattr("pipeline.application.realtime.hub.deliver", None)
                say(url, 1)
                await until(lambda: len(errors) >= 2)
            assert {str(error) for error in errors[:2]} == {
                "Listening failed (KeyError). The operation is retried; report this error.",
                "Reading the feed failed (TypeError). The operation is retried; report this error.",
            }
            assert keys(await take(mine, 1)) == [1]

    asyncio.run(scenario())


def test_a_hub_that_has_ended_says_so_to_who_waits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        errors: list[Exception] = []
        async with opened(url, errors=errors) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: not mine.behind)
            monkeypatch.setattr(hub._schedule, "next", None)
            say(url, 1)
            with pytest.raises(PipelineError, match="The hub has stopped"):
                await take(mine, 2)  # The message may have come before.
            assert len(errors) == 1

    asyncio.run(scenario())
