"""Presence and typing of the members of a topic.

A member is present until it leaves, or no event of it arrived for some seconds; typing ends by
itself. Time counts from the arrival of an event on this process's clock, so the clocks of other
machines do not matter.
"""

import asyncio
from collections.abc import Callable
from typing import Self

from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.transports.events import Event, PresenceChanged, TypingChanged
from pipeline.core.errors import PipelineError

Change = PresenceChanged | TypingChanged


class Presence:
    """The present members of one topic; an async context manager.

    With ``member`` it also announces that member: on entry, periodically, and on exit.
    """

    def __init__(
        self,
        context: RealtimeContext,
        topic: str,
        *,
        member: str | None = None,
        on_change: Callable[[Change], None] = lambda _: None,
        heartbeat: float = 10.0,
        gone_after: float = 30.0,
        typing_for: float = 5.0,
        most: int = 10_000,
    ) -> None:
        """Start without members.

        Args:
            context: subscribes and broadcasts.
            topic: such as ``space:12``.
            member: the member to announce; None only listens.
            on_change: gets each event that changes who is present or typing.
            heartbeat: seconds between two announcements of the member.
            gone_after: seconds without an event after which a member counts as gone.
            typing_for: seconds without an event after which typing ends.
            most: members known at most; the one without events for the longest time is removed.
        """
        self._context, self.topic, self._member = context, topic, member
        self._on_change, self._heartbeat, self._most = on_change, heartbeat, most
        self._seconds: dict[type[Change], float] = {
            PresenceChanged: gone_after,
            TypingChanged: typing_for,
        }
        # Oldest first, because a member with a new event moves to the end.
        self._until: dict[type[Change], dict[str, float]] = {PresenceChanged: {}, TypingChanged: {}}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], None]] = []

    @property
    def here(self) -> list[str]:
        """The present members, sorted."""
        return sorted(self._until[PresenceChanged])

    @property
    def typing(self) -> list[str]:
        """The typing members, sorted."""
        return sorted(self._until[TypingChanged])

    async def __aenter__(self) -> Self:
        """Start to listen, and announce the member."""
        self._ends = [
            self._context.subscribe(kind, self._take, topic=self.topic)
            for kind in (PresenceChanged, TypingChanged)
        ]
        self._tasks = [asyncio.create_task(self._expire())]
        if self._member is not None:
            self._tasks.append(asyncio.create_task(self._beat(self._member)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Announce that the member left, if possible, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end()
        if self._member is not None:
            await self._announce(PresenceChanged(self.topic, self._member, here=False))

    async def say_typing(self, *, typing: bool = True) -> None:
        """Announce that the member types; repeat it within ``typing_for`` seconds.

        Raises:
            PipelineError: it could not be sent, or there is no member to announce.
        """
        if self._member is None:
            raise PipelineError(
                "Typing cannot be announced without a member", remedy="Pass member to Presence"
            )
        await self._context.broadcast(TypingChanged(self.topic, self._member, typing))

    async def _beat(self, member: str) -> None:
        while True:
            await self._announce(PresenceChanged(self.topic, member))
            await asyncio.sleep(self._heartbeat)

    async def _announce(self, event: PresenceChanged) -> None:
        try:
            await self._context.broadcast(event)
        except PipelineError as error:
            # The next heartbeat repeats it, or the other clients notice by themselves.
            self._context.tell(error, f"announcing {event.member} in {self.topic}")

    def _take(self, event: Event) -> None:
        if isinstance(event, PresenceChanged | TypingChanged):
            self._update(event)

    def _update(self, event: Change) -> None:
        kind = type(event)
        known = self._until[kind]
        was_on = known.pop(event.member, None) is not None
        on = event.here if isinstance(event, PresenceChanged) else event.typing
        if on:
            lasting = isinstance(event, PresenceChanged) and event.lasting
            now = asyncio.get_running_loop().time()
            known[event.member] = float("inf") if lasting else now + self._seconds[kind]
            self._changed.set()
        if on != was_on:
            self._on_change(event)
        if isinstance(event, PresenceChanged) and not on:
            self._stop(TypingChanged, event.member)
        if len(known) > self._most:
            self._stop(kind, next(iter(known)))

    def _stop(self, kind: type[Change], member: str) -> None:
        if self._until[kind].pop(member, None) is None:
            return
        off = (
            PresenceChanged(self.topic, member, here=False)
            if kind is PresenceChanged
            else TypingChanged(self.topic, member, typing=False)
        )
        try:
            self._on_change(off)
        except Exception as error:  # The application's code can raise anything.
            self._context.tell(error, f"the callback of presence in {self.topic}")

    async def _expire(self) -> None:
        """Remove members without an event in time, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            soonest = min(
                (t for known in self._until.values() for t in known.values()), default=None
            )
            try:
                async with asyncio.timeout_at(None if soonest == float("inf") else soonest):
                    await self._changed.wait()
            except TimeoutError:
                now = loop.time()
                for kind, known in self._until.items():
                    for member in [each for each, until in known.items() if until <= now]:
                        self._stop(kind, member)
