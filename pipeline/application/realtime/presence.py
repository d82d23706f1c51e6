"""Who is here, and who types.

Somebody is here until they say that they leave, or nothing was heard of them for some seconds;
whoever types stops by themselves. Seconds count from when something arrived, on this process's own
clock, so clocks of other machines do not matter.
"""

import asyncio
from collections.abc import Callable
from typing import Self

from pipeline.application.realtime.context import RealtimeContext
from pipeline.application.realtime.transports.events import Event, PresenceChanged, TypingChanged
from pipeline.core.errors import PipelineError

Change = PresenceChanged | TypingChanged


class Presence:
    """Those who are in one topic; an async context manager.

    With ``member`` it says that this one is here: at once, from time to time, and that they left.
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
        """Know of nobody yet.

        Args:
            context: by which it is heard and told.
            topic: where.
            member: who is here; None only looks.
            on_change: told when somebody comes or leaves, begins or stops to type.
            heartbeat: seconds between two words that the member is here.
            gone_after: who was not heard for so many seconds has left.
            typing_for: so many seconds after their last word somebody does not type any more.
            most: how many are known at most; who was not heard for the longest time goes.
        """
        self._context, self.topic, self._member = context, topic, member
        self._on_change, self._heartbeat, self._most = on_change, heartbeat, most
        self._seconds: dict[type[Change], float] = {
            PresenceChanged: gone_after,
            TypingChanged: typing_for,
        }
        # Oldest first, because who is heard again is put to the end.
        self._until: dict[type[Change], dict[str, float]] = {PresenceChanged: {}, TypingChanged: {}}
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], None]] = []

    @property
    def here(self) -> list[str]:
        """Who is here, in the order of their names."""
        return sorted(self._until[PresenceChanged])

    @property
    def typing(self) -> list[str]:
        """Who types, in the order of their names."""
        return sorted(self._until[TypingChanged])

    async def __aenter__(self) -> Self:
        """Begin to listen, and say that the member is here."""
        self._ends = [
            self._context.subscribe(kind, self._take, topic=self.topic)
            for kind in (PresenceChanged, TypingChanged)
        ]
        self._tasks = [asyncio.create_task(self._expire())]
        if self._member is not None:
            self._tasks.append(asyncio.create_task(self._beat(self._member)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Say that the member left, as far as it can be said, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end()
        if self._member is not None:
            await self._say(PresenceChanged(self.topic, self._member, here=False))

    async def say_typing(self, *, typing: bool = True) -> None:
        """Say that the member types; as long as they do, again before ``typing_for`` is over.

        Raises:
            PipelineError: it could not be sent, or nobody is here.
        """
        if self._member is None:
            raise PipelineError("Nobody is here who could type", remedy="Name a member")
        await self._context.broadcast(TypingChanged(self.topic, self._member, typing))

    async def _beat(self, member: str) -> None:
        while True:
            await self._say(PresenceChanged(self.topic, member))
            await asyncio.sleep(self._heartbeat)

    async def _say(self, event: PresenceChanged) -> None:
        try:
            await self._context.broadcast(event)
        except PipelineError as error:
            # The next heartbeat says it, or the others notice by themselves.
            self._context.tell(error, f"saying that {event.member} is in {self.topic}")

    def _take(self, event: Event) -> None:
        if isinstance(event, PresenceChanged | TypingChanged):
            self._hear(event)

    def _hear(self, event: Change) -> None:
        kind = type(event)
        known = self._until[kind]
        was = known.pop(event.member, None) is not None
        on = event.here if isinstance(event, PresenceChanged) else event.typing
        if on:
            lasting = isinstance(event, PresenceChanged) and event.lasting
            now = asyncio.get_running_loop().time()
            known[event.member] = float("inf") if lasting else now + self._seconds[kind]
            self._heard.set()
        if on != was:
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
        except Exception as error:  # What an application's code may raise, nobody knows here.
            self._context.tell(error, f"the callback of presence in {self.topic}")

    async def _expire(self) -> None:
        """Let go of those who were not heard in time, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._heard.clear()
            soonest = min(
                (t for known in self._until.values() for t in known.values()), default=None
            )
            try:
                async with asyncio.timeout_at(None if soonest == float("inf") else soonest):
                    await self._heard.wait()
            except TimeoutError:
                now = loop.time()
                for kind, known in self._until.items():
                    for member in [each for each, until in known.items() if until <= now]:
                        self._stop(kind, member)
