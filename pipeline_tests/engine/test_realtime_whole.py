"""From what an application writes to a typed callback: triggers, feed, hub and context together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.transports.events import (
    Changed,
    Event,
    MemberChanged,
    MessageNew,
    NotePublished,
    PresenceChanged,
    ProgressUpdated,
    Resync,
    TypingChanged,
)
from pipeline.postgres.target import Target
from pipeline.realtime import canary
from pipeline_tests.support import spaces_world
from pipeline_tests.support.feeds import TABLES
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.subscribers import nothing, opened, say, take, until
from pipeline_tests.support.targets import query


@asynccontextmanager
async def heard(hub: Hub, **kinds: type[Event] | str) -> AsyncIterator[dict[str, list[Event]]]:
    """What callbacks were told; each name is a topic, written ``space_1``."""
    logs: dict[str, list[Event]] = {name: [] for name in kinds}
    async with RealtimeContext(hub) as context:
        for name, kind in kinds.items():
            topic = name.rsplit("__", 1)[0].replace("_", ":")
            context.subscribe(kind, logs[name].append, topic=topic)
        await until(lambda: all(not each.behind for each in list(hub._subscriptions)))
        yield logs


def test_each_type_of_event_comes_from_a_write_to_its_callback_alone(feed_url: str) -> None:
    async def scenario() -> None:
        async with (
            opened(feed_url) as hub,
            heard(
                hub,
                space_1__chat=MessageNew,
                space_1__notes=NotePublished,
                space_1__progress=ProgressUpdated,
                space_1__members=MemberChanged,
                user_2__own="notifications",
                space_2__all="messages",
            ) as logs,
        ):
            for sql in (
                "INSERT INTO messages (id, space_id, user_id, content) VALUES (7, 1, 1, 'ก')",
                "UPDATE notes SET status = 'published' WHERE id = 1",
                "INSERT INTO progress (id, user_id, lesson_id) VALUES (3, 1, 1)",
                "UPDATE space_members SET role = 'admin' WHERE id = 1",
                "INSERT INTO notifications (id, user_id, type) VALUES (4, 2, 'x')",
                "INSERT INTO messages (space_id, user_id, content) VALUES (3, 1, 'mute')",
            ):
                query(feed_url, sql)
            await until(lambda: sum(map(len, logs.values())) == 5)
            told = {name: [type(event) for event in log] for name, log in logs.items()}
            assert told == {
                "space_1__chat": [MessageNew],
                "space_1__notes": [NotePublished],
                "space_1__progress": [ProgressUpdated],
                "space_1__members": [MemberChanged],
                "user_2__own": [Changed],
                "space_2__all": [],
            }
            (message,), (note,) = logs["space_1__chat"], logs["space_1__notes"]
            assert isinstance(message, MessageNew)
            assert isinstance(note, NotePublished)
            assert (message.key, message.operation) == ("7", "INSERT")
            assert message.row is not None
            assert message.row["content"] == "ก"
            assert note.row is not None
            # What stamps an update and what tells of it come together.
            assert note.row["updated_at"] > note.row["created_at"]

    asyncio.run(scenario())


def test_a_row_that_moves_leaves_one_space_and_comes_into_another(feed_url: str) -> None:
    async def scenario() -> None:
        async with opened(feed_url) as hub:
            first, second = (hub.subscribe(["notes"], topic=f"space:{each}") for each in (1, 2))
            query(feed_url, "UPDATE notes SET space_id = 2 WHERE id = 1")
            (gone,), (come,) = await take(first, 1), await take(second, 1)
            assert isinstance(gone, Changed)
            assert isinstance(come, Changed)
            assert (gone.operation, gone.row, come.operation) == ("DELETE", None, "INSERT")
            assert come.row is not None
            assert come.row["space_id"] == 2

    asyncio.run(scenario())


def test_whoever_listens_to_a_table_that_is_truncated_reads_anew_at_once(feed_url: str) -> None:
    async def scenario() -> None:
        async with opened(feed_url) as hub:
            mine = hub.subscribe(topic="space:1")
            say(feed_url, 1)
            await take(mine, 1)
            query(feed_url, "TRUNCATE messages")
            assert await take(mine, 1, seconds=5) == [Resync()]
            say(feed_url, 2)
            assert [type(event) for event in await take(mine, 1)] == [MessageNew]

    asyncio.run(scenario())


def test_fleeting_events_of_any_size_come_and_those_of_a_mute_space_do_not(feed_url: str) -> None:
    async def scenario() -> None:
        async with opened(feed_url) as hub:
            mine, mute = (hub.subscribe(topic=f"space:{each}") for each in (1, 3))
            await until(lambda: not mine.behind)
            sent = [
                PresenceChanged("space:1", "1", payload={"name": "ฉัน"}),
                TypingChanged("space:1", "1", payload={"draft": "ก" * 9000}),
            ]
            await hub.send(TypingChanged("space:3", "1"))
            for event in sent:
                await hub.send(event)
                assert await take(mine, 1) == [event]
            assert await nothing(mute)

    asyncio.run(scenario())


def test_the_canary_is_heard_by_nobody_who_does_not_ask_for_it(feed_url: str) -> None:
    def emit() -> None:
        with Target.connect(feed_url, shown="the target") as target, target.lock(seconds=0):
            assert canary.emit(target, url=feed_url, shown="the target").passed

    async def scenario() -> None:
        async with opened(feed_url) as hub:
            everything, one = hub.subscribe(), hub.subscribe(topic="space:1")
            itself = hub.subscribe(topic=canary.TOPIC)
            await until(lambda: not everything.behind and not itself.behind)
            await asyncio.to_thread(emit)
            # Its two fleeting events, at least: the others may be removed before they are read.
            await take(itself, 2)
            say(feed_url, 1)
            for each in (everything, one):
                (event,) = await take(each, 1)
                assert event.topic == "space:1"
            assert hub.subscribe(replay=9)._held == 1

    asyncio.run(scenario())


def test_what_a_move_and_a_sync_write_is_no_event(feed_url: str, tmp_path: Path) -> None:
    source = spaces_world.make(tmp_path / "source.db")
    spaces_world.add_two_spaces(source)
    query(feed_url, "TRUNCATE users CASCADE")

    async def scenario() -> None:
        async with opened(feed_url) as hub:
            mine = hub.subscribe()
            await until(lambda: not mine.behind)
            await asyncio.to_thread(move_all, source.path, feed_url, tables=TABLES)
            source.run("UPDATE messages SET content = 'again', updated_at = '2031-01-01 00:00:00'")
            await asyncio.to_thread(sync_all, source.path, feed_url, tables=TABLES)
            assert query(feed_url, "SELECT DISTINCT content FROM messages") == [("again",)]
            assert query(feed_url, "SELECT count(*) FROM feed.changes") == [(0,)]
            assert await nothing(mine)

    asyncio.run(scenario())
