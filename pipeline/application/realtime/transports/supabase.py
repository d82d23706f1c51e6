"""Supabase Realtime: hints and fleeting events through private channels, with its official client.

Each subscribed topic has a channel. A broadcast ``changes`` is a hint that changes were committed;
broadcasts ``presence:changed`` and ``typing:changed`` are delivered as events. Events may flow only
some seconds after a channel reports that it is subscribed, so another hint follows then.
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
    member_id,
    name_of,
    sent,
)
from pipeline.application.realtime.transports.tokens import Ask, Tokens
from pipeline.application.realtime.transports.transport import Hint, Received, Unreadable
from pipeline.core import urls
from pipeline.core.errors import PipelineError, SettingsError, Transient

log = logging.getLogger(__name__)

CHANGES = "changes"
"""The database's broadcast after a commit of changes of a topic."""

_WAITING = 10_000
"""The longest queue of signals; dropped hints are made up by the next read."""


def _without_contents(record: logging.LogRecord) -> bool:
    """Drop the client's errors that contain unreadable messages, as anybody could fill the log."""
    return record.levelno < logging.ERROR or not record.getMessage().startswith("Unrecognized")


class Supabase:
    """Hints from broadcasts; fleeting events from broadcasts and from Supabase's presence.

    Any member of a channel can send anything there. Unreadable messages are skipped.
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
            token: returns an access token for the channels; called ahead of each expiry.
            seconds: timeout of an answer.
            settle: seconds after the subscription of a channel until the feed is read again.
            ahead: seconds before its expiry at which a token is renewed.

        Raises:
            SettingsError: the URL is malformed.
        """
        if urls.server(url, ("https", "http", "wss", "ws")) is None:
            raise SettingsError(
                "The URL of Supabase Realtime is malformed",
                remedy="Use the form https://PROJECT.supabase.co/realtime/v1",
            )
        self._url, self._key, self._tokens = url, key, Tokens(token, ahead=ahead)
        self._seconds, self._settle = seconds, settle
        self._client: AsyncRealtimeClient | None = None
        self._channels: dict[str, AsyncRealtimeChannel] = {}
        self._joined: dict[str, asyncio.Event] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._signals: asyncio.Queue[Received | None] = asyncio.Queue(_WAITING)
        self._tending: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Open the socket; channels are joined in the background."""
        # At DEBUG it would log the key and the token.
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
                remedy="The connection is retried; the feed is polled meanwhile",
            ) from None
        self._client = client
        self._tending = asyncio.create_task(self._tend(client))

    async def signals(self) -> AsyncIterator[Received]:
        """Hints and events, until the socket is closed."""
        client = self._client
        while client is not None and client.is_connected:
            if self._tending is not None and self._tending.done():
                break  # A send failed, so the socket is about to be closed.
            if client._listen_task is not None and client._listen_task.done():
                break  # An unforeseen message ended it, and nothing arrives any more.
            signal = None
            # The loss of a socket without channels is not reported.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    signal = await self._signals.get()
            if signal is not None:
                yield signal
        raise Transient(
            "Supabase Realtime: the connection was closed",
            remedy="The connection is reopened automatically",
        )

    def watch(self, topics: Collection[str]) -> None:
        """Join the channels of these topics, and leave all others."""
        self._wanted = frozenset(topics)
        self._changed.set()

    async def send(self, event: Fleeting) -> None:
        """Broadcast it, once the channel of its topic is joined; the topic must be watched."""
        joined = self._joined.setdefault(event.topic, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await joined.wait()
        channel = self._channels.get(event.topic)
        if channel is None or not channel.is_joined or not channel.socket.is_connected:
            raise Transient(
                f"The channel {event.topic} is not joined, so no event can be sent to it",
                remedy="Subscribe to the topic, and send the event again",
            )
        await channel.send_broadcast(name_of(event), sent(event))

    async def disconnect(self) -> None:
        """Close the socket, its channels and timers."""
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
            # The client cancels its tasks without waiting for them.
            await asyncio.sleep(0)

    async def close(self) -> None:
        """The same as ``disconnect``."""
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
        channel.on_broadcast("*", self._guarded(partial(self._take_broadcast, topic)))
        channel.on_presence_join(self._guarded(partial(self._take_join, topic)))
        channel.on_presence_leave(self._guarded(partial(self._take_leave, topic)))
        await channel.subscribe(lambda state, _: self._take_state(channel, topic, state))

    async def _leave(self, topic: str) -> None:
        channel = self._channels[topic]
        self._forget(topic)
        if channel.socket.is_connected:
            await channel.unsubscribe()

    def _forget(self, topic: str) -> None:
        channel = self._channels.pop(topic)
        self._joined.pop(topic, None)
        for key, known in channel.presence.state.items():
            # Members that leave from now on are not reported.
            self._take_leave(topic, key, [], known)
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
        for push in list(channel.messages_waiting_for_ack.values()):
            push.destroy()

    def _take_state(
        self, channel: AsyncRealtimeChannel, topic: str, state: RealtimeSubscribeStates
    ) -> None:
        """Handle a new state of a channel; the client itself retries refused joins."""
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
            log.warning("Supabase Realtime: %s is %s; joining is retried", topic, state.value)
            self._tokens.refuse()
        if state is RealtimeSubscribeStates.CLOSED:
            self._forget(topic)
        self._changed.set()
        self._put(None)

    def _guarded(self, take: Callable[..., None]) -> Callable[..., None]:
        """Wrap a callback: an exception would end the client's listening task."""

        def guarded(*arguments: Any) -> None:
            try:
                take(*arguments)
            except Exception:  # Other clients can send anything.
                self._put(Unreadable())

        return guarded

    def _take_broadcast(self, topic: str, broadcast: Mapping[str, Any]) -> None:
        if broadcast.get("event") == CHANGES:
            self._put(Hint(topic))
            return
        payload = broadcast.get("payload")
        event = fleeting(topic, str(broadcast.get("event")), {} if payload is None else payload)
        if event is not None:
            self._put(event)

    def _take_join(self, topic: str, key: str, _: Iterable[Any], new: Iterable[Any]) -> None:
        for member in self._members(key, new):
            self._put(PresenceChanged(topic, member, here=True, lasting=True))

    def _take_leave(self, topic: str, key: str, rest: Iterable[Any], left: Iterable[Any]) -> None:
        for member in {*self._members(key, left)} - {*self._members(key, rest)}:
            self._put(PresenceChanged(topic, member, here=False, lasting=True))

    def _members(self, key: str, present: Iterable[Any]) -> Iterator[str]:
        """The members present under a key; an unreadable one does not affect the others."""
        for each in present:
            try:
                yield member_id(each.get("member", key))
            except (AttributeError, ValueError):
                self._put(Unreadable())

    def _put(self, signal: Received | None) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._signals.put_nowait(signal)
