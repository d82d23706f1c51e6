"""Clients subscribe with callbacks; what one of them does wrong harms no other."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipeline.application.realtime.context import CallbackError, RealtimeContext
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.manager import Refused, SubscriptionManager
from pipeline.application.realtime.presence import Presence
from pipeline.application.realtime.transports.events import (
    Changed,
    Event,
    MessageNew,
    PresenceChanged,
    Resync,
    TypingChanged,
)
from pipeline.core.errors import PipelineError
from pipeline_tests.support.subscribers import PATIENT, keys, opened, say, until
from pipeline_tests.support.targets import query


@pytest.fixture
def url(feed_url: str) -> str:
    return feed_url


@asynccontextmanager
async def client(
    hub: Hub, *, errors: list[CallbackError] | None = None, **limits: Any
) -> AsyncIterator[RealtimeContext]:
    told = [] if errors is None else errors
    manager = SubscriptionManager(**limits)
    async with RealtimeContext(hub, manager=manager, on_error=told.append) as context:
        yield context


def test_callbacks_are_told_of_events_and_of_tables_until_they_unsubscribe(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, client(hub) as context:
            chat: list[Event] = []
            table: list[Event] = []

            async def hear(event: MessageNew) -> None:
                await asyncio.sleep(0)
                chat.append(event)

            end = context.subscribe(MessageNew, hear, topic="space:1")
            context.subscribe("messages", table.append)
            say(url, 1)
            say(url, 2, space=2)
            query(url, "UPDATE messages SET content = 'mended' WHERE id = 1")
            await until(lambda: len(table) == 3)
            await until(lambda: keys(chat) == [1])
            assert [type(event) for event in table] == [MessageNew, MessageNew, Changed]
            end()
            end()
            say(url, 3)
            await until(lambda: len(table) == 4)
            assert keys(chat) == [1]

    asyncio.run(scenario())


def test_what_a_callback_raises_is_told_and_stops_nobody(url: str) -> None:
    async def scenario() -> None:
        errors: list[CallbackError] = []
        async with opened(url) as hub, client(hub, errors=errors) as context:
            sound: list[Event] = []
            broken: list[Event] = []

            def fail(event: Event) -> None:
                broken.append(event)
                raise ValueError("a fault of the application")

            context.subscribe("messages", fail)
            context.subscribe("messages", sound.append)
            say(url, 1)
            say(url, 2)
            await until(lambda: len(sound) == len(broken) == len(errors) == 2)
            assert isinstance(errors[0].__cause__, ValueError)
            assert "the callback of messages of all topics" in errors[0].problem

    asyncio.run(scenario())


def test_a_callback_may_unsubscribe_itself_and_hears_nothing_more(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, client(hub) as context:
            heard: list[Event] = []

            def once(event: Event) -> None:
                heard.append(event)
                end()

            end = context.subscribe("messages", once)
            say(url, 1, 2, 3)
            await until(lambda: len(context.manager) == 0)
            assert keys(heard) == [1]

    asyncio.run(scenario())


def test_a_callback_that_hangs_delays_nobody_and_is_cancelled_at_the_end(url: str) -> None:
    async def scenario() -> None:
        cancelled = asyncio.Event()
        async with opened(url, limits=replace(PATIENT, room=5)) as hub:
            async with client(hub) as context:
                heard: list[Event] = []

                async def hang(_: Event) -> None:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        cancelled.set()

                context.subscribe("messages", hang)
                context.subscribe("messages", heard.append)
                say(url, *range(50))
                await until(lambda: len(heard) == 50)
                assert hub.metrics.most_waiting <= 5
            assert cancelled.is_set()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(scenario())
        gc.collect()


def test_a_hundred_clients_hear_each_change_once_and_in_order(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            logs: list[list[Event]] = [[] for _ in range(100)]
            contexts = [RealtimeContext(hub) for _ in logs]
            for context, log in zip(contexts, logs, strict=True):
                await context.__aenter__()
                context.subscribe("messages", log.append, topic="space:1")
            for number in range(20):
                say(url, number)
            query(url, "DELETE FROM messages")
            await until(lambda: all(len(log) == 40 for log in logs))
            for log in logs:
                assert keys(log) == [*range(20), *range(20)]
            for context in contexts:
                await context.__aexit__()

    asyncio.run(scenario())


def test_a_client_is_told_to_read_anew(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, client(hub) as context:
            heard: list[Event] = []
            context.subscribe("notes", heard.append)
            query(url, "UPDATE feed.horizon SET epoch = gen_random_uuid()")
            say(url, 1)
            query(url, "NOTIFY feed, 'space:1'")
            await until(lambda: heard == [Resync()])

    asyncio.run(scenario())


def test_only_events_that_no_table_keeps_are_broadcast(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, client(hub) as context, client(hub) as other:
            heard: list[Event] = []
            other.subscribe(TypingChanged, heard.append, topic="space:1")
            await context.broadcast(TypingChanged("space:1", "7"))
            await until(lambda: heard == [TypingChanged("space:1", "7")])
            made = MessageNew("space:1", "messages", "INSERT", "1", 1, None)
            with pytest.raises(PipelineError, match="message:new cannot be sent: a written row"):
                await context.broadcast(made)  # type: ignore[arg-type]
            with pytest.raises(PipelineError, match="'' is neither an event nor a published table"):
                context.subscribe(int, heard.append)  # type: ignore[arg-type]
        with pytest.raises(PipelineError, match="not open"):
            context.subscribe("messages", heard.append)

    asyncio.run(scenario())


def test_what_matters_least_and_was_silent_for_the_longest_time_makes_room(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, client(hub, max_subscriptions=3) as context:
            evicted: list[tuple[str, str | None]] = []
            heard: list[Event] = []

            def subscribe(name: str, topic: str) -> None:
                context.subscribe(
                    name,
                    heard.append,
                    topic=topic,
                    on_evicted=lambda *what: evicted.append(what),
                )

            subscribe("note:published", "space:1")
            subscribe("notes", "space:2")
            subscribe("member:changed", "space:3")
            # The older one of two that matter alike is heard of, so the other one goes.
            query(
                url,
                "INSERT INTO feed.changes (topic, event, table_name, operation, key)"
                " VALUES ('space:1', 'note:published', 'notes', 'DELETE', 1)",
            )
            query(url, "NOTIFY feed, 'space:1'")
            await until(lambda: len(heard) == 1)
            subscribe("message:new", "space:4")
            assert evicted == [("member:changed", "space:3")]
            subscribe("presence:changed", "space:5")
            assert evicted[1:] == [("notes", "space:2")]
            with pytest.raises(
                Refused, match="to progress of space:6 was rejected: all 3 existing"
            ):
                subscribe("progress", "space:6")
            # Of those that matter alike, the newest one stays.
            subscribe("notes", "space:6")
            assert evicted[2:] == [("note:published", "space:1")]
            assert len(context.manager) == 3

    asyncio.run(scenario())


def test_what_nobody_owns_any_more_or_is_stale_is_cleaned(url: str) -> None:
    class Page:
        def __init__(self) -> None:
            self.heard: list[Event] = []

        def hear(self, event: Event) -> None:
            self.heard.append(event)

    async def scenario() -> None:
        async with opened(url) as hub:
            evicted: list[tuple[str, str | None]] = []
            async with client(hub, cleanup_interval=0.02) as context:
                page, kept = Page(), Page()
                for each in (page, kept):
                    context.subscribe(
                        "messages",
                        each.hear,
                        owner=each,
                        on_evicted=lambda *what: evicted.append(what),
                    )
                say(url, 1)
                await until(lambda: kept.heard)
                del page, each
                gc.collect()
                await until(lambda: evicted == [("messages", None)])
                assert len(context.manager) == 1
            async with client(hub, cleanup_interval=0.02, stale_after=0.05) as context:
                context.subscribe("notes", kept.hear)
                await until(lambda: len(context.manager) == 0)

    asyncio.run(scenario())


@asynccontextmanager
async def present(hub: Hub, changes: list[Any], **how: Any) -> AsyncIterator[Presence]:
    errors: list[CallbackError] = []
    async with client(hub, errors=errors) as context:
        async with Presence(context, "space:1", on_change=changes.append, **how) as made:
            yield made
        assert errors == []


def test_who_comes_and_leaves_is_told_to_the_others(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            seen: list[Any] = []
            async with present(hub, seen) as read_only:
                async with present(hub, [], member="7", heartbeat=0.05):
                    await until(lambda: read_only.here == ["7"])
                    # Heartbeats go on, and tell nothing new.
                    await asyncio.sleep(0.12)
                await until(lambda: read_only.here == [])
                assert [event.here for event in seen] == [True, False]

    asyncio.run(scenario())


def test_who_is_not_heard_in_time_has_left_and_types_no_more(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            seen: list[Any] = []
            async with present(hub, seen, gone_after=0.2, typing_for=0.05) as read_only:
                await hub.send(PresenceChanged("space:1", "7"))
                await hub.send(PresenceChanged("space:1", "8", lasting=True))
                await hub.send(TypingChanged("space:1", "7"))
                await until(lambda: read_only.typing == ["7"])
                await until(lambda: read_only.typing == [])
                assert read_only.here == ["7", "8"]
                await until(lambda: read_only.here == ["8"])
                said = [(type(event), event.member) for event in seen]
                assert said == [
                    (PresenceChanged, "7"),
                    (PresenceChanged, "8"),
                    (TypingChanged, "7"),
                    (TypingChanged, "7"),
                    (PresenceChanged, "7"),
                ]

    asyncio.run(scenario())


def test_who_says_that_they_stop_typing_or_leave_is_believed_at_once(url: str) -> None:
    async def scenario() -> None:
        async with (
            opened(url) as hub,
            present(hub, []) as read_only,
            present(hub, [], member="7") as one,
        ):
            await one.say_typing()
            await until(lambda: read_only.typing == ["7"])
            await one.say_typing(typing=False)
            await until(lambda: read_only.typing == [])
            await one.say_typing()
            await until(lambda: read_only.typing == ["7"])
            await hub.send(PresenceChanged("space:1", "7", here=False))
            await until(lambda: read_only.here == read_only.typing == [])
            with pytest.raises(PipelineError, match="Pass member to Presence"):
                await read_only.say_typing()

    asyncio.run(scenario())


def test_so_many_members_are_known_at_most(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub, present(hub, [], most=2) as read_only:
            for member in "1", "2", "1", "3":
                await hub.send(PresenceChanged("space:1", member))
            await until(lambda: read_only.here == ["1", "3"])

    asyncio.run(scenario())
