"""Supabase Realtime is a way for hints; what it loses, the feed heals, and tokens stay secret."""

import asyncio
import base64
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from pipeline.application.realtime.transports.events import PresenceChanged, TypingChanged
from pipeline.application.realtime.transports.supabase import Supabase
from pipeline.application.realtime.transports.tokens import Tokens, expiry
from pipeline.core.errors import PipelineError, SettingsError, Transient
from pipeline_tests.support.phoenix import KEY, Phoenix, jwt, phoenix
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

# The official client asks a closed connection for its code by a deprecated name.
_OF_THE_CLIENT = "ConnectionClosed.(code|reason) is deprecated"
pytestmark = pytest.mark.filterwarnings(f"ignore:{_OF_THE_CLIENT}")


def claims(text: str) -> str:
    """A token with these claims."""
    return f"a.{base64.urlsafe_b64encode(text.encode()).decode()}.c"


SILENTLY = "SET test.silent = 'on'; INSERT INTO messages (id, space_id) VALUES ({0}, 1)"


@pytest.fixture
def url(feed_url: str) -> str:
    return feed_url


async def good() -> str:
    return jwt(3600)


def supabase(
    server: Phoenix,
    *,
    token: Callable[[], Awaitable[str]] = good,
    settle: float = 60,
    ahead: float = 60,
) -> Supabase:
    return Supabase(server.url, key=KEY, token=token, seconds=5, settle=settle, ahead=ahead)


def test_hints_come_by_private_channels_of_the_topics_that_are_wanted(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            first, second = (hub.subscribe(topic=f"space:{space}") for space in (1, 2))
            await until(lambda: server.joined == {"space:1", "space:2"})
            say(url, 1)
            await server.changes("space:1")
            await server.changes("space:1")
            assert keys(await take(first, 1)) == [1]
            assert await nothing(first)
            hub.unsubscribe(second)
            await until(lambda: server.leaves == ["space:2"])
            again = hub.subscribe(topic="space:2")
            await until(lambda: server.joined == {"space:1", "space:2"})
            say(url, 2, space=2)
            await server.changes("space:2")
            assert keys(await take(again, 1)) == [2]

    asyncio.run(scenario())


def test_sockets_that_drop_lose_and_double_nothing(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            mine = hub.subscribe(topic="space:1")
            for number in range(4):
                await until(lambda: server.joined == {"space:1"})
                await server.drop()
                say(url, number)
                assert keys(await take(mine, 1)) == [number]
            assert await nothing(mine)
            assert hub.metrics.reconnects == 4

    asyncio.run(scenario())


def test_what_is_committed_before_events_flow_is_read_after_the_channel_has_settled(
    url: str,
) -> None:
    async def scenario() -> None:
        async with phoenix() as server:
            server.silent = True
            async with opened(url, transport=supabase(server, settle=0.3)) as hub:
                mine = hub.subscribe(topic="space:1")
                await until(lambda: server.joined)
                await until(lambda: not mine.behind)
                assert await nothing(mine, seconds=0.1)
                say(url, 1)
                await server.changes("space:1")
                assert keys(await take(mine, 1)) == [1]

    asyncio.run(scenario())


def test_fleeting_events_are_broadcast_and_presence_of_others_is_told(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            mine = hub.subscribe(["presence:changed", "typing:changed"], topic="space:1")
            typing = TypingChanged("space:1", "7", payload={"draft": "ก"})
            await hub.send(typing)
            assert await take(mine, 1) == [typing]
            assert [said["event"] for said in server.heard] == ["typing:changed"]
            meta = {"b": {"metas": [{"phx_ref": "1", "member": "8"}]}}
            await server.tell("space:1", "presence_diff", {"joins": meta, "leaves": {}})
            await server.tell("space:1", "presence_diff", {"joins": {}, "leaves": meta})
            came, left = await take(mine, 2)
            assert came == PresenceChanged("space:1", "8", here=True, lasting=True)
            assert left == PresenceChanged("space:1", "8", here=False, lasting=True)
            await server.tell("space:1", "presence_diff", {"joins": meta, "leaves": {}})
            await take(mine, 1)
            await server.drop()
            assert await take(mine, 1) == [left]
            with pytest.raises(Transient, match="space:9 is not joined"):
                await Supabase(server.url, key=KEY, token=good, seconds=0.01).send(
                    TypingChanged("space:9", "7")
                )

    asyncio.run(scenario())


def test_a_token_is_renewed_ahead_of_its_expiry_and_asked_for_again_if_that_fails(
    url: str,
) -> None:
    async def scenario() -> None:
        given: list[str] = []

        async def ask() -> str:
            if len(given) == 2:
                given.append("")
                raise RuntimeError("geheim: the session store is away")
            given.append(jwt(61.5 if len(given) < 2 else 3600, name=f"geheim{len(given)}"))
            return given[-1]

        async with phoenix() as server:
            transport = supabase(server, token=ask, ahead=61.3)
            async with opened(url, transport=transport) as hub:
                hub.subscribe(topic="space:1")
                await until(lambda: len(given) == 1)
                # Half of the time that is left; nobody waits for that here.
                transport._tokens._until = 0.0
                transport._changed.set()
                await until(lambda: given[-1] in server.tokens and len(given) == 2)
                transport._tokens._until = 0.0
                transport._changed.set()
                await until(lambda: len(given) == 4)
                await until(lambda: given[3] in server.tokens)

    asyncio.run(scenario())


def test_a_channel_that_the_server_closes_is_joined_again_with_a_new_token(url: str) -> None:
    async def scenario() -> None:
        given: list[str] = []

        async def ask() -> str:
            given.append(jwt(0.2 if len(given) == 0 else 3600, name=f"n{len(given)}"))
            return given[-1]

        async with phoenix() as server, opened(url, transport=supabase(server, token=ask)) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: server.joined)
            await asyncio.sleep(0.2)
            await server.close_expired()
            await until(lambda: server.joins.count("space:1") >= 2 and server.joined)
            assert server.tokens[-1] != given[0]
            say(url, 1)
            await server.changes("space:1")
            assert keys(await take(mine, 1)) == [1]

    asyncio.run(scenario())


def test_a_topic_that_is_refused_stops_no_other_and_is_healed_from_the_feed(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server:
            server.refused.add("space:1")
            async with opened(url, transport=supabase(server), limits=QUICK) as hub:
                refused, taken = (hub.subscribe(topic=f"space:{each}") for each in (1, 2))
                await until(lambda: server.joined == {"space:2"})
                say(url, 1)
                say(url, 2, space=2)
                assert keys(await take(refused, 1)) == [1]
                assert keys(await take(taken, 1)) == [2]
                server.refused.clear()
                # The client itself tries again after a second.
                await until(lambda: server.joined == {"space:1", "space:2"})

    asyncio.run(scenario())


def test_without_a_server_the_feed_is_polled_until_there_is_one(url: str) -> None:
    async def scenario() -> None:
        asked = 0

        async def ask() -> str:
            nonlocal asked
            asked += 1
            if asked > 1 and not back:
                raise ConnectionError("geheim")
            return jwt(3600)

        back = False
        async with phoenix() as server:
            limits = replace(PATIENT, poll=0.02, failures=2)
            async with opened(url, transport=supabase(server, token=ask), limits=limits) as hub:
                mine = hub.subscribe(topic="space:1")
                await until(lambda: server.joined)
                await server.drop()
                await until(lambda: hub.metrics.errors >= 3)
                query(url, SILENTLY.format(1))
                assert keys(await take(mine, 1)) == [1]
                back = True
                await until(lambda: server.joined)
                query(url, SILENTLY.format(2))
                await server.changes("space:1")
                assert keys(await take(mine, 1)) == [2]

    asyncio.run(scenario())


def test_messages_that_nobody_foresaw_cost_a_connection_at_most(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: server.joined and not mine.behind)
            for socket in list(server._sockets):
                for frame in ("", "{", "[]", "null", '{"topic": 1}', b"\xff", "\0" * 9):
                    await socket.send(frame)
            bad = {"b": {"metas": [{"member": "8"}]}}  # Without a reference.
            await server.tell("space:1", "presence_diff", {"joins": bad, "leaves": {}})
            await until(lambda: hub.metrics.reconnects == 1 and server.joined)
            query(url, SILENTLY.format(1))
            await server.changes("space:1")
            assert keys(await take(mine, 1)) == [1]

    asyncio.run(scenario())


def test_no_key_and_no_token_is_in_any_log_message_or_exception(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # This one is the simulated server's.
    caplog.set_level(logging.INFO, logger="websockets.server")
    caplog.set_level(logging.DEBUG)

    async def broken() -> str:
        raise RuntimeError(jwt(1))

    async def scenario() -> None:
        errors: list[Exception] = []
        async with phoenix() as server:
            transport = supabase(server)
            async with opened(url, transport=transport, errors=errors) as hub:
                hub.subscribe(topic="space:1")
                await until(lambda: server.joined)
                transport._tokens.refuse()
                transport._changed.set()
                await until(lambda: len(server.tokens) == 2)
                await server.drop()
                await until(lambda: server.joined)
            for wrong in (
                Supabase("ws://127.0.0.1:1", key=KEY, token=good),
                Supabase(server.url, key="geheim", token=broken),
            ):
                with pytest.raises(PipelineError) as caught:
                    await wrong.connect()
                assert caught.value.__cause__ is None
                errors.append(caught.value)
        assert errors
        said = [caplog.text, repr(transport), *map(str, errors), *map(repr, errors)]
        assert "geheim" not in "".join(said)

    asyncio.run(scenario())
    assert "phx_join" in caplog.text, "nothing of what is sent was logged at all"


def test_closing_leaves_no_task_and_no_warning(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server:
            before = asyncio.all_tasks()
            async with opened(url, transport=supabase(server)) as hub:
                for space in range(5):
                    hub.subscribe(topic=f"space:{space}")
                await until(lambda: len(server.joined) == 5)
                await hub.send(TypingChanged("space:1", "7"))
                await server.drop()
                await until(lambda: server.joined)
            await until(lambda: not server.joined)
            assert asyncio.all_tasks() == before

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=_OF_THE_CLIENT)
        asyncio.run(scenario())
        gc.collect()


NESTED = '{"a":' * 1400 + "1" + "}" * 1400
JUNK = (
    *("[]", "7", '"text"', '{"member":[]}', '{"member":true}', '{"member":1.5,"here":true}'),
    '{"member":' + "9" * 5000 + "}",
    '{"member":"7","here":"yes","typing":1}',
    '{"member":"7","a":' + "[" * 100 + "]" * 100 + "}",
)
"""Payloads of a known event, in wrong shapes."""


def test_whatever_a_channel_brings_is_passed_over_and_not_logged(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def present(ref: str, member: str) -> str:
        return f'{{"metas":[{{"phx_ref":"{ref}","member":{member}}}]}}'

    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: server.joined and not mine.behind)

            async def shout(event: str, payload: str) -> None:
                await server.shout(
                    f'{{"topic":"realtime:space:1","ref":null,"event":"{event}","payload":{payload}}}'
                )

            for text in ("", "{", "[]", "null", NESTED, "[" * 100_000, "\ud800"):
                await server.shout(text.encode("utf8", "replace").decode())
            for payload in JUNK:
                await shout("broadcast", f'{{"event":"typing:changed","payload":{payload}}}')
            for payload in ("[]", "{}", NESTED, '{"event":[],"payload":7}', '{"event":"ours"}'):
                await shout("broadcast", payload)
            joins = f'{{"a":{present("1", "[7]")},"b":{present("2", "7")}}}'
            await shout("presence_diff", f'{{"joins":{joins},"leaves":{{}}}}')
            assert await take(mine, 1) == [PresenceChanged("space:1", "7", lasting=True)]
            await shout("presence_diff", f'{{"joins":{{}},"leaves":{joins}}}')
            (left,) = await take(mine, 1)
            assert left == PresenceChanged("space:1", "7", here=False, lasting=True)
            say(url, 1)
            await server.changes("space:1")
            assert keys(await take(mine, 1)) == [1]
            await hub.send(TypingChanged("space:1", "7"))
            assert await take(mine, 1) == [TypingChanged("space:1", "7")]
            # Two are of presence; four payloads the client itself refuses.
            assert hub.metrics.unreadable == len(JUNK) + 2 - 4
            assert (hub.metrics.reconnects, hub.metrics.errors) == (0, 0)

    asyncio.run(scenario())
    assert caplog.records == []


def test_what_the_service_sends_comes_once_by_its_channel(url: str) -> None:
    async def scenario() -> None:
        async with phoenix() as server, opened(url, transport=supabase(server)) as hub:
            mine = hub.subscribe(topic="space:1")
            await until(lambda: server.joined and not mine.behind)
            query(url, "SELECT feed.send('space:1', 'typing:changed', '{\"member\": \"7\"}')")
            # As the database's broadcast of it arrives.
            said = {"event": "typing:changed", "payload": {"member": "7"}}
            await server.tell("space:1", "broadcast", said)
            assert await take(mine, 1) == [TypingChanged("space:1", "7")]
            say(url, 1)
            await server.changes("space:1")
            assert keys(await take(mine, 1)) == [1]
            assert await nothing(mine)

    asyncio.run(scenario())


def test_a_url_that_cannot_be_used_is_refused_without_repeating_it() -> None:
    for url in ("postgresql://geheim", "https://", "geheim"):
        with pytest.raises(SettingsError) as caught:
            Supabase(url, key=KEY, token=good)
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "token",
    [
        *("", "a.b.c", "a", "a.e30.c", "a.W10.c"),
        *(claims('{"exp": ' + each + "}") for each in ("NaN", "Infinity", "9" * 400, "null")),
        claims('{"a": ' * 3000),
    ],
)
def test_a_token_that_does_not_say_when_it_expires_is_used_for_some_minutes(token: str) -> None:
    async def scenario() -> float:
        async def ask() -> str:
            return token

        tokens = Tokens(ask, ahead=60)
        assert tokens.due_in == 0
        assert await tokens.new() == token
        return tokens.due_in

    assert expiry(token) is None
    assert 200 < asyncio.run(scenario()) <= 300


@pytest.mark.parametrize(("lasts", "used_for"), [(3600, 3540), (80, 40), (1, 1)])
def test_a_token_is_used_until_a_minute_before_its_end_or_for_half_of_its_time(
    lasts: float, used_for: float
) -> None:
    async def scenario() -> float:
        async def ask() -> str:
            return jwt(lasts)

        tokens = Tokens(ask, ahead=60)
        await tokens.new()
        return tokens.due_in

    assert used_for - 2 < asyncio.run(scenario()) <= used_for
