"""Anybody may notify and listen: that ends no hub, forges no event and gives nothing away."""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Event, PresenceChanged, TypingChanged
from pipeline.config.settings import libpq
from pipeline.postgres.target import Target
from pipeline.realtime import checks
from pipeline_tests.support.feeds import PEOPLE, TABLES, changes, listening, make_tables, switch_on
from pipeline_tests.support.old_world import FIXTURES
from pipeline_tests.support.subscribers import QUICK, keys, nothing, opened, say, take, until
from pipeline_tests.support.targets import query

STRANGER = f"feed_stranger_{os.getpid()}"
NOTIFY = "SELECT pg_notify('feed', %s)"
SEND = "SELECT feed.send('space:1', %s, %s::jsonb)"
FORGED = [
    json.dumps({"topic": "space:1", "event": event, "payload": {"member": "7"}})
    for event in ("presence:changed", "typing:changed", "message:new")
]
"""What an earlier version sent by NOTIFY."""
NOTIFIED = (
    '{"a":' * 1400,
    "[" * 7999,
    "x" * 7999,
    *FORGED,
    *('{"topic":1}', '{"topic":"space:1"}', '{"topic":null,"event":[],"payload":7}'),
    *("[]", "7", "null", "NaN", '"text"', "{}", "{", "9" * 5000, '{"topic":NaN}'),
    *("space:1", "space:-1", f"space:{'9' * 40}", "user:1", "fleeting", "", "ก" * 2600),
    '{"position":99999999999999999999,"xid":"-1","epoch":"x"}',
)
SENT = (
    '{"a":' * 1400 + "1" + "}" * 1400,
    '{"member":"7","a":' + "[" * 500 + "]" * 500 + "}",
    *("[]", "7", '"text"', "9" * 5000, '[{"member":"7"}]'),
    *('{"member":[]}', '{"member":{"a":1}}', '{"member":true}', '{"member":1.5}'),
    '{"member":' + "9" * 5000 + "}",
    *('{"member":"7","here":"yes","typing":1}', '{"member":"7","here":null,"typing":null}'),
    '{"member":"7","lasting":[],"typing":[]}',
)


@pytest.fixture(scope="module")
def role(server: URL) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    query(libpq(server), f"CREATE ROLE {STRANGER} LOGIN")
    yield STRANGER
    query(libpq(server), f"DROP ROLE {STRANGER}")


@pytest.fixture
def url(feed_url: str) -> str:
    return feed_url


@pytest.fixture
def stranger(url: str, role: str) -> str:
    """The same database, as a role without a single right."""
    return as_role(url, role)


def as_role(url: str, role: str) -> str:
    return libpq(make_url(url).set(username=role))


def ask(url: str, sql: str, *given: Sequence[Any]) -> None:
    """Run a statement with each of some values, in a transaction of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        for values in given:
            connection.cursor().execute(sql, values or None)


async def listened(hub: Hub) -> Subscription:
    mine = hub.subscribe(topic="space:1")
    await until(lambda: not mine.behind)
    return mine


async def delivers(hub: Hub, mine: Subscription, url: str, number: int) -> list[Event]:
    """All events until a message and a fleeting event arrived that are said now."""
    typing = TypingChanged("space:1", f"honest {number}")
    await hub.send(typing)
    say(url, number)
    found: list[Event] = []
    while typing not in found or number not in keys(found):
        found += await take(mine, 1, seconds=5)
    return [event for event in found if event != typing and keys([event]) != [number]]


def test_nothing_that_is_notified_ends_the_hub_or_reaches_a_subscriber(
    url: str, stranger: str
) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = await listened(hub)
            for number in range(0, len(NOTIFIED), 6):
                ask(stranger, NOTIFY, *((payload,) for payload in NOTIFIED[number : number + 6]))
                assert await delivers(hub, mine, url, number) == []
            assert await nothing(mine)
            assert (hub.metrics.errors, hub.metrics.resyncs, hub.metrics.healed) == (0, 0, 0)

    asyncio.run(scenario())


def test_what_is_sent_in_a_wrong_shape_is_counted_and_passed_over(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = await listened(hub)
            for event in ("presence:changed", "typing:changed"):
                ask(url, SEND, *((event, payload) for payload in SENT))
            assert await delivers(hub, mine, url, 1) == []
            assert (hub.metrics.unreadable, hub.metrics.errors) == (2 * len(SENT), 0)

    asyncio.run(scenario())


def test_what_is_too_large_to_send_is_refused(url: str) -> None:
    large = json.dumps({"member": "7", "draft": "x" * (256 << 10)})
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="262144 bytes"):
        query(url, SEND, ("typing:changed", large))


def test_a_stranger_hears_that_something_happened_and_nothing_else(url: str, stranger: str) -> None:
    with listening(stranger) as listener:
        say(url, 1)
        query(url, "INSERT INTO notifications (id, user_id, type) VALUES (1, 2, 'secret')")
        for event in ("presence:changed", "typing:changed"):
            query(url, SEND, (event, '{"member": "ann", "draft": "secret"}'))
        query(url, SEND, ("typing:changed", json.dumps({"draft": "x" * 9000})))
        query(url, "TRUNCATE messages")
        assert set(listener.heard(at_least=6)) == {"", "fleeting"}
    for asked in (
        *(f"SELECT * FROM feed.{table}" for table in ("changes", "fleeting", "horizon")),
        "SELECT feed.send('space:1', 'typing:changed', '{}')",
        "SELECT feed.prune('0', 1)",
        "INSERT INTO feed.fleeting (topic, event) VALUES ('space:1', 'typing:changed')",
        "SELECT nextval('feed.fleeting_id_seq')",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(stranger, asked)


def test_a_flood_of_hints_costs_a_bounded_number_of_reads_and_delays_nobody(
    url: str, stranger: str
) -> None:
    stop = threading.Event()
    told = 0

    def flood(payload: str) -> None:
        nonlocal told
        with closing(psycopg2.connect(stranger)) as connection:
            connection.autocommit = True
            while not stop.is_set():
                connection.cursor().execute(
                    "SELECT pg_notify('feed', CASE WHEN g > 50 THEN %s ELSE g::text END)"
                    " FROM generate_series(1, 100) g",
                    (payload,),
                )
                told += 51  # Equal ones are one, in a transaction.

    async def scenario() -> None:
        async with opened(url) as hub:
            mine = await listened(hub)
            floods = [threading.Thread(target=flood, args=(p,)) for p in ("fleeting", "")]
            for each in floods:
                each.start()
            await asyncio.sleep(0.3)
            reads, begun, late = hub.metrics.reads, time.monotonic(), list[float]()
            await asyncio.sleep(0.7)
            rate = (hub.metrics.reads - reads) / (time.monotonic() - begun)
            for number in range(5):
                sent = time.monotonic()
                await asyncio.to_thread(say, url, number)
                assert keys(await take(mine, 1)) == [number]
                late.append(time.monotonic() - sent)
            stop.set()
            for each in floods:
                await asyncio.to_thread(each.join)
            # A look reads both kinds once.
            assert rate < 2.2 / hub.limits.calm
            assert told > 100 * rate
            assert max(late) < 1
            assert await nothing(mine)

    asyncio.run(scenario())


def test_whatever_arrives_at_random_the_hub_goes_on(url: str, stranger: str) -> None:
    rng = random.Random(20261130)

    def junk(depth: int = 0) -> object:
        match rng.randrange(9 if depth < 4 else 6):
            case 0:
                return rng.choice([None, True, False])
            case 1:
                return rng.choice([0, -1, 2**63, 10**300, 1.5, -0.0])
            case 2:
                return rng.choice(["", "space:1", "user:-1", "typing:changed", "ก\u2028\U0001f600"])
            case 3:
                return "x" * rng.randrange(3000)
            case 4 | 5:
                return rng.choice(FORGED)
            case 6:
                return [junk(depth + 1) for _ in range(rng.randrange(4))]
            case _:
                names = ("topic", "event", "payload", "member", "here", "typing", "lasting", "a")
                return {rng.choice(names): junk(depth + 1) for _ in range(rng.randrange(5))}

    async def scenario() -> None:
        async with opened(url, limits=QUICK) as hub:
            mine = await listened(hub)
            for number in range(10):
                notified = [json.dumps(junk(), ensure_ascii=False) for _ in range(40)]
                cut = [text[: rng.choice((rng.randrange(1, 2600), 2600))] for text in notified]
                ask(stranger, NOTIFY, *((text,) for text in cut))
                sent = [json.dumps(junk()) for _ in range(10)]
                events = rng.choices(("presence:changed", "typing:changed"), k=len(sent))
                ask(url, SEND, *zip(events, sent, strict=True))
                for event in await delivers(hub, mine, url, number):
                    assert isinstance(event, PresenceChanged | TypingChanged)
            assert (hub.metrics.errors, hub.metrics.resyncs) == (0, 0)
            assert hub.metrics.unreadable > 10

    asyncio.run(scenario())


def test_fleeting_events_are_swept_as_others_are_sent_and_told_only_while_they_are_fresh(
    url: str,
) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = await listened(hub)
            query(
                url,
                "INSERT INTO feed.fleeting (at, topic, event, payload) SELECT now() - interval"
                " '40 s', 'space:1', 'typing:changed', '{\"member\": \"stale\"}'"
                " FROM generate_series(1, 250)",
            )
            said = (json.dumps({"member": str(number)}) for number in range(50))
            ask(url, SEND, *(("typing:changed", payload) for payload in said))
            found = [event.member for event in await take(mine, 50) if not keys([event])]
            assert found == [str(number) for number in range(50)]
            assert query(url, "SELECT count(*) FROM feed.fleeting") == [(50,)]

    asyncio.run(scenario())


def test_more_fleeting_events_than_a_page_are_the_newest_ones(url: str) -> None:
    async def scenario() -> None:
        async with opened(url) as hub:
            mine = await listened(hub)
            query(
                url,
                "SELECT feed.send('space:1', 'typing:changed', jsonb_build_object('member', g))"
                " FROM generate_series(1, 700) g",
            )
            found = [event.member for event in await take(mine, 500) if not keys([event])]
            assert found == [str(number) for number in range(201, 701)]
            assert hub.metrics.fleeting_dropped == 200
            assert await nothing(mine)

    asyncio.run(scenario())


def as_declared(url: str) -> bool:
    with Target.connect(url, shown="the target") as target, target.read_only():
        return checks.triggers(target, TABLES).passed


def test_a_feed_of_before_is_read_on_and_brought_up_to_date(target_url: str, role: str) -> None:
    stranger = as_role(target_url, role)
    make_tables(target_url)
    query(target_url, PEOPLE)
    query(target_url, "ALTER TABLE messages ALTER user_id SET DEFAULT 1")
    query(target_url, (FIXTURES / "feed_before_fleeting.sql").read_text())

    async def scenario() -> None:
        errors: list[Exception] = []
        async with opened(target_url, limits=QUICK, errors=errors) as hub:
            mine = await listened(hub)
            say(target_url, 1)
            assert keys(await take(mine, 1)) == [1]
            query(target_url, NOTIFY, (FORGED[0],))
            query(target_url, "SELECT feed.send('space:1', 'typing:changed', '{\"member\": 1}')")
            say(target_url, 2)
            assert keys(await take(mine, 1)) == [2]
            await until(lambda: errors)
            assert "pipeline realtime on" in str(errors[0])
            before = query(target_url, "SELECT epoch FROM feed.horizon"), changes(target_url)
            assert not as_declared(target_url)
            for _ in range(2):
                switch_on(target_url)
            assert as_declared(target_url)
            after = query(target_url, "SELECT epoch FROM feed.horizon"), changes(target_url)
            assert after == before
            with listening(stranger) as listener:
                assert await delivers(hub, mine, target_url, 3) == []
                assert set(listener.heard(at_least=2)) == {"", "fleeting"}
            assert hub.metrics.resyncs == 0

    asyncio.run(scenario())
