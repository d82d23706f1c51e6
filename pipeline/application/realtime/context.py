"""What a client of the application holds: subscribe with a callback, and broadcast.

Each subscription has a task that calls its callback, one event after the other and in order; a slow
one delays nobody else. What a callback raises is told to an error handler and stops nothing.
"""

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Self

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.manager import Kept, SubscriptionManager
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import (
    NAMES,
    Event,
    PresenceChanged,
    TypingChanged,
    name_of,
)
from pipeline.core.errors import PipelineError

log = logging.getLogger(__name__)

Callback = Callable[[Any], Awaitable[None] | None]


class CallbackError(PipelineError):
    """The application's own code raised; its cause is what it raised."""


def _log(error: CallbackError) -> None:
    log.error("%s", error, exc_info=error.__cause__)


class RealtimeContext:
    """Subscriptions of one client; an async context manager, at whose end all of them end."""

    def __init__(
        self,
        hub: Hub,
        *,
        manager: SubscriptionManager | None = None,
        on_error: Callable[[CallbackError], None] = _log,
    ) -> None:
        """Subscribe to nothing yet.

        Args:
            hub: that of this process, open.
            manager: bounds the subscriptions.
            on_error: takes what callbacks raise.
        """
        self._hub, self._on_error = hub, on_error
        self.manager = SubscriptionManager() if manager is None else manager
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: set[Subscription] = set()
        self._cleaning: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to clean."""
        self._cleaning = asyncio.create_task(self.manager.keep_clean())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all subscriptions; a callback that still runs is cancelled."""
        for subscription in list(self._subscriptions):
            self._hub.unsubscribe(subscription)
        self._subscriptions.clear()
        ending = [*self._tasks, *([self._cleaning] if self._cleaning else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._cleaning = None

    def subscribe(
        self,
        table_or_event: str | type[Event],
        callback: Callback,
        *,
        topic: str | None = None,
        since: Cursor | None = None,
        replay: int = 0,
        owner: object | None = None,
        on_evicted: Callable[[str, str | None], None] | None = None,
    ) -> Callable[[], None]:
        """Call a callback for every event of a type, or every change of a table.

        Args:
            table_or_event: ``messages``, ``message:new`` or ``MessageNew``.
            callback: takes the event; it may be a coroutine function. It gets a ``Resync``, too,
                when changes were missed for good.
            topic: whose events, ``space:12``; None for those of every topic.
            since: a position that was kept; None to begin with what comes from now on.
            replay: so many of the last events are told first.
            owner: the subscription ends when it is gone; it is not kept alive.
            on_evicted: told the name and the topic when the manager has ended the subscription.

        Returns:
            What ends the subscription; no event is told any more once it was called.

        Raises:
            Refused: there are too many that matter more.
            PipelineError: the context or its hub is not open.
        """
        if self._cleaning is None:
            raise PipelineError("The context is not open", remedy="Use it as `async with context`")
        name = table_or_event if isinstance(table_or_event, str) else NAMES.get(table_or_event, "")
        self.manager.make_room(name, topic)
        subscription = self._hub.subscribe([name], topic=topic, since=since, replay=replay)

        def end() -> None:
            self._hub.unsubscribe(subscription)
            self._subscriptions.discard(subscription)
            self.manager.remove(kept)

        kept = Kept(name, topic, end, on_evicted, None if owner is None else weakref.ref(owner))
        self.manager.add(kept)
        self._subscriptions.add(subscription)
        held = _held(callback, owner)
        task = asyncio.create_task(self._deliver(subscription, held, kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return end

    async def broadcast(self, event: PresenceChanged | TypingChanged) -> None:
        """Tell everybody who listens to the event's topic; nothing keeps it.

        Raises:
            PipelineError: it could not be sent, or is made by a row of a table.
        """
        if not isinstance(event, PresenceChanged | TypingChanged):
            raise PipelineError(
                f"{name_of(event)} is made by a row of a table", remedy="Write the row"
            )
        await self._hub.send(event)

    async def _deliver(
        self, subscription: Subscription, callback: Callable[[], Callback | None], kept: Kept
    ) -> None:
        try:
            async for event in subscription:
                kept.touch()
                found = callback()
                if found is None:
                    return
                await self._call(found, event, kept)
                del found  # Until the next event nothing here keeps its owner alive.
        except PipelineError as error:
            self.tell(error, _shown(kept))
        finally:
            kept.end()

    async def _call(self, callback: Callback, event: Event, kept: Kept) -> None:
        try:
            done = callback(event)
            if inspect.isawaitable(done):
                await done
        except Exception as error:  # What an application's code may raise, nobody knows here.
            self.tell(error, _shown(kept))

    def tell(self, error: Exception, what: str) -> None:
        """Tell the error handler what has failed."""
        told = CallbackError(
            f"Failed: {what} ({type(error).__name__})",
            remedy="Later events are told all the same; see its cause",
        )
        told.__cause__ = error
        self._on_error(told)


def _shown(kept: Kept) -> str:
    return f"the callback of {kept.name} of {kept.topic or 'all topics'}"


def _held(callback: Callback, owner: object | None) -> Callable[[], Callback | None]:
    """What gives the callback; a method of the owner does not keep it alive."""
    if owner is not None and getattr(callback, "__self__", None) is owner:
        return weakref.WeakMethod(callback)
    return lambda: callback
