"""Subscriptions of one client: subscribe with a callback, and broadcast.

Each subscription has a task that calls its callback for one event after the other, in order. A slow
callback delays no other subscription. Exceptions of callbacks go to an error handler, and delivery
continues.
"""

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Self

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.hub import Hub
from pipeline.application.realtime.manager import ManagedSubscription, SubscriptionManager
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
    """A callback of the application failed; its exception is the cause."""


def _log(error: CallbackError) -> None:
    log.error("%s", error, exc_info=error.__cause__)


class RealtimeContext:
    """Subscriptions of one client; an async context manager that ends all of them on exit."""

    def __init__(
        self,
        hub: Hub,
        *,
        manager: SubscriptionManager | None = None,
        on_error: Callable[[CallbackError], None] = _log,
    ) -> None:
        """Start without subscriptions.

        Args:
            hub: the open hub of this process.
            manager: limits the subscriptions.
            on_error: gets the errors of callbacks.
        """
        self._hub, self._on_error = hub, on_error
        self.manager = SubscriptionManager() if manager is None else manager
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: set[Subscription] = set()
        self._cleaning: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the periodic cleanup."""
        self._cleaning = asyncio.create_task(self.manager.keep_clean())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all subscriptions and cancel running callbacks."""
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
            callback: gets the event; it may be a coroutine function. It also gets a ``Resync`` if
                changes were missed for good.
            topic: the topic of the events, such as ``space:12``; None for all topics.
            since: a saved position; None starts with new events.
            replay: number of past events to deliver first.
            owner: the subscription ends when this object is garbage-collected.
            on_evicted: gets the name and the topic if the manager ends the subscription.

        Returns:
            A function that ends the subscription; afterwards no event is delivered.

        Raises:
            Refused: there are too many subscriptions of higher priority.
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
            self.manager.remove(managed)

        managed = ManagedSubscription(
            name, topic, end, on_evicted, None if owner is None else weakref.ref(owner)
        )
        self.manager.add(managed)
        self._subscriptions.add(subscription)
        reference = _reference(callback, owner)
        task = asyncio.create_task(self._deliver(subscription, reference, managed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return end

    async def broadcast(self, event: PresenceChanged | TypingChanged) -> None:
        """Send a fleeting event to all subscribers of its topic.

        Raises:
            PipelineError: it could not be sent, or rows of a table make such events.
        """
        if not isinstance(event, PresenceChanged | TypingChanged):
            raise PipelineError(
                f"{name_of(event)} cannot be sent: a written row creates it",
                remedy="Write the row instead",
            )
        await self._hub.send(event)

    async def _deliver(
        self,
        subscription: Subscription,
        reference: Callable[[], Callback | None],
        managed: ManagedSubscription,
    ) -> None:
        try:
            async for event in subscription:
                managed.touch()
                callback = reference()
                if callback is None:
                    return
                await self._call(callback, event, managed)
                del callback  # Otherwise it would keep its owner alive until the next event.
        except PipelineError as error:
            self.tell(error, _description(managed))
        finally:
            managed.end()

    async def _call(self, callback: Callback, event: Event, managed: ManagedSubscription) -> None:
        try:
            result = callback(event)
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # The application's code can raise anything.
            self.tell(error, _description(managed))

    def tell(self, error: Exception, what: str) -> None:
        """Report a failure to the error handler."""
        report = CallbackError(
            f"Failed: {what} ({type(error).__name__})",
            remedy="Later events are still delivered; see the cause of this error",
        )
        report.__cause__ = error
        self._on_error(report)


def _description(managed: ManagedSubscription) -> str:
    return f"the callback of {managed.name} of {managed.topic or 'all topics'}"


def _reference(callback: Callback, owner: object | None) -> Callable[[], Callback | None]:
    """Returns the callback when called; a method of the owner does not keep the owner alive."""
    if owner is not None and getattr(callback, "__self__", None) is owner:
        return weakref.WeakMethod(callback)
    return lambda: callback
