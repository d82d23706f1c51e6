"""Supabase Realtime: hints and fleeting events by private channels, by its official client.

A channel for each topic that somebody listens to. A broadcast ``changes`` says that something was
committed; those of ``presence:changed`` and ``typing:changed`` are told as they are. Events may
flow only some seconds after a channel says that it is subscribed, so a hint follows then, too.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimeSubscribeStates
from websockets.exceptions import InvalidStatus, WebSocketException

from pipeline.application.realtime.transports.backoff import Backoff
from pipeline.application.realtime.transports.events import (
    Fleeting,
    PresenceChanged,
    fleeting,
    member_of,
    name_of,
    sent,
)
from pipeline.application.realtime.transports.tokens import Ask, Tokens
from pipeline.application.realtime.transports.transport import Hint, Told, Unreadable
from pipeline.core import urls
from pipeline.core.errors import PipelineError, SettingsError, Transient

log = logging.getLogger(__name__)

CHANGES = "changes"
"""The broadcast by which the database says that something of a topic was committed."""

_WAITING = 10_000
"""So many signals wait at most; hints that are dropped are healed."""


def _without_contents(record: logging.LogRecord) -> bool:
    """The client logs what it cannot read as an error, whole: anybody could fill the log."""
    return record.levelno < logging.ERROR or not record.getMessage().startswith("Unrecognized")


class Supabase:
    """Hints by broadcasts; fleeting events by broadcasts of its own, and by presence.

    Whoever may join a channel may say anything there. What cannot be read is passed over.
    """

    carries = True

    def __init__(
        self,
        url: str,
        *,
        key: str,
        token: Ask,
        seconds: float = 10.0,
        settle: float = 5.0,
        ahead: float = 60.0,
    ) -> None:
        """Connect later.

        Args:
            url: ``https://PROJECT.supabase.co/realtime/v1``.
            key: the project's publishable (anon) key.
            token: gives the token of whom the channels are for; asked ahead of each expiry.
            seconds: how long to wait for an answer.
            settle: so many seconds after a channel is subscribed the feed is looked at again.
            ahead: seconds before a token's expiry at which another one is asked for.

        Raises:
            SettingsError: the URL cannot be used.
        """
        if urls.server(url, ("https", "http", "wss", "ws")) is None:
            raise SettingsError(
                "The URL of Supabase Realtime cannot be used",
                remedy="Write it like https://PROJECT.supabase.co/realtime/v1",
            )
        self._url, self._key, self._tokens = url, key, Tokens(token, ahead=ahead)
        self._seconds, self._settle = seconds, settle
        self._client: AsyncRealtimeClient | None = None
        self._channels: dict[str, AsyncRealtimeChannel] = {}
        self._joined: dict[str, asyncio.Event] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._signals: asyncio.Queue[Told | None] = asyncio.Queue(_WAITING)
        self._tending: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Open the socket; channels are joined behind it."""
        # At DEBUG it would write the key and the token into the log.
        logging.getLogger("websockets.client").setLevel(logging.INFO)
        logging.getLogger(AsyncRealtimeClient.__module__).addFilter(_without_contents)
        token = await self._tokens.new()
        client = AsyncRealtimeClient(
            self._url,
            token=self._key,
            auto_reconnect=False,
            max_retries=1,
            timeout=max(1, round(self._seconds)),
        )
        await client.set_auth(token)
        try:
            async with asyncio.timeout(self._seconds):
                await client.connect()
        except (OSError, TimeoutError, WebSocketException) as error:
            status = (
                f", HTTP {error.response.status_code}" if isinstance(error, InvalidStatus) else ""
            )
            raise Transient(
                f"Supabase Realtime cannot be reached ({type(error).__name__}{status})",
                remedy="It is tried again, and the feed is polled meanwhile",
            ) from None
        self._client = client
        self._tending = asyncio.create_task(self._tend(client))

    async def signals(self) -> AsyncIterator[Told]:
        """What is broadcast, until the socket is closed."""
        client = self._client
        while client is not None and client.is_connected:
            if self._tending is not None and self._tending.done():
                break  # A send failed, so the socket is about to be closed.
            if client._listen_task is not None and client._listen_task.done():
                break  # It fell over a message that nobody foresaw, and hears nothing any more.
            signal = None
            # A socket without channels is lost without a word.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    signal = await self._signals.get()
            if signal is not None:
                yield signal
        raise Transient("Supabase Realtime: the connection has ended", remedy="It is opened again")

    def watch(self, topics: Collection[str]) -> None:
        """Join the channels of these topics, and leave all others."""
        self._wanted = frozenset(topics)
        self._changed.set()

    async def send(self, event: Fleeting) -> None:
        """Broadcast it; the channel of its topic must be watched, and is waited for."""
        joined = self._joined.setdefault(event.topic, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await joined.wait()
        channel = self._channels.get(event.topic)
        if channel is None or not channel.is_joined or not channel.socket.is_connected:
            raise Transient(
                f"{event.topic} is not joined, so nothing can be sent to it",
                remedy="Subscribe to the topic, and send it again",
            )
        await channel.send_broadcast(name_of(event), sent(event))

    async def disconnect(self) -> None:
        """Close the socket and let go of everything that hangs on it."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        for later in self._later.values():
            later.cancel()
        self._later.clear()
        for topic in list(self._channels):
            self._forget(topic)
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
            # It cancels its own tasks without waiting for them.
            await asyncio.sleep(0)

    async def close(self) -> None:
        """As ``disconnect``."""
        await self.disconnect()

    async def _tend(self, client: AsyncRealtimeClient) -> None:
        """Join and leave channels and renew the token, until cancelled."""
        backoff = Backoff(base=1.0, cap=30.0)
        while True:
            self._changed.clear()
            wait = self._tokens.due_in
            if not wait:
                try:
                    await client.set_auth(await self._tokens.new())
                    wait = self._tokens.due_in
                except PipelineError as error:
                    log.warning("%s", error)
                    wait = backoff.next()
            for topic in [each for each in self._channels if each not in self._wanted]:
                await self._leave(topic)
            missing = [topic for topic in self._wanted if topic not in self._channels]
            await asyncio.gather(*(self._join(client, topic) for topic in missing))
            if self._wanted - self._channels.keys():
                wait = min(wait, backoff.next())
            elif self._tokens.due_in:
                backoff.reset()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def _join(self, client: AsyncRealtimeClient, topic: str) -> None:
        channel = client.channel(
            topic,
            {
                "config": {
                    "broadcast": {"ack": True, "self": True},
                    "presence": {"key": "", "enabled": True},
                    "private": True,
                }
            },
        )
        self._channels[topic] = channel
        channel.on_broadcast("*", self._whatever(partial(self._heard, topic)))
        channel.on_presence_join(self._whatever(partial(self._came, topic)))
        channel.on_presence_leave(self._whatever(partial(self._left, topic)))
        await channel.subscribe(lambda state, _: self._became(channel, topic, state))

    async def _leave(self, topic: str) -> None:
        channel = self._channels[topic]
        self._forget(topic)
        if channel.socket.is_connected:
            await channel.unsubscribe()

    def _forget(self, topic: str) -> None:
        channel = self._channels.pop(topic)
        self._joined.pop(topic, None)
        for key, known in channel.presence.state.items():
            # Whoever leaves from now on, nobody says it.
            self._left(topic, key, [], known)
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
        for push in list(channel.messages_waiting_for_ack.values()):
            push.destroy()

    def _became(
        self, channel: AsyncRealtimeChannel, topic: str, state: RealtimeSubscribeStates
    ) -> None:
        """A channel says how it is; the client itself tries again those that were refused."""
        if self._channels.get(topic) is not channel:
            return
        joined = self._joined.setdefault(topic, asyncio.Event())
        if state is RealtimeSubscribeStates.SUBSCRIBED:
            joined.set()
            self._put(Hint(topic))
            if (before := self._later.pop(topic, None)) is not None:
                before.cancel()
            loop = asyncio.get_running_loop()
            self._later[topic] = loop.call_later(self._settle, self._put, Hint(topic))
            return
        joined.clear()
        if channel.socket.is_connected:
            log.warning("Supabase Realtime: %s is %s; it is tried again", topic, state.value)
            self._tokens.refuse()
        if state is RealtimeSubscribeStates.CLOSED:
            self._forget(topic)
        self._changed.set()
        self._put(None)

    def _whatever(self, take: Callable[..., None]) -> Callable[..., None]:
        """Take what arrives; an error would end the client's task that listens."""

        def taken(*said: Any) -> None:
            try:
                take(*said)
            except Exception:  # Whatever others send, nobody knows here.
                self._put(Unreadable())

        return taken

    def _heard(self, topic: str, said: Mapping[str, Any]) -> None:
        if said.get("event") == CHANGES:
            self._put(Hint(topic))
            return
        payload = said.get("payload")
        known = fleeting(topic, str(said.get("event")), {} if payload is None else payload)
        if known is not None:
            self._put(known)

    def _came(self, topic: str, key: str, _: Iterable[Any], new: Iterable[Any]) -> None:
        for member in self._members(key, new):
            self._put(PresenceChanged(topic, member, here=True, lasting=True))

    def _left(self, topic: str, key: str, rest: Iterable[Any], left: Iterable[Any]) -> None:
        for member in {*self._members(key, left)} - {*self._members(key, rest)}:
            self._put(PresenceChanged(topic, member, here=False, lasting=True))

    def _members(self, key: str, present: Iterable[Any]) -> Iterator[str]:
        """Those that can be read of who is present under a key: one that cannot hides no other."""
        for each in present:
            try:
                yield member_of(each.get("member", key))
            except (AttributeError, ValueError):
                self._put(Unreadable())

    def _put(self, signal: Told | None) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._signals.put_nowait(signal)
