"""A subscription: events in order, in a queue of bounded length.

A slow subscriber falls behind: no more events are put into its queue. When the queue is empty, the
remaining events are read from the feed, one page at a time, until it has caught up. So a slow
subscriber does not affect others, and loses nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from typing import Self

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.reader import Change
from pipeline.application.realtime.transports.events import (
    Changed,
    Event,
    Fleeting,
    Resync,
    name_of,
)
from pipeline.core.errors import PipelineError


class Subscription:
    """An async iterator over events.

    Attributes:
        topic: the topic of the events; None for all topics.
        names: events and tables; None for all.
        cursor: the position up to which its queue was filled.
        position: all events before it were taken; saved by the subscriber, it is where to continue
            after a restart.
        behind: whether it fell behind, and its events are read from the feed.
        resumed: whether its cursor may be newer than the hub's.
        closed: whether it has ended.
        most: the most events that ever waited in its queue.
    """

    def __init__(
        self,
        *,
        topic: str | None,
        names: Collection[str] | None,
        cursor: Cursor,
        room: int,
        resumed: bool,
        on_drained: Callable[["Subscription"], None],
    ) -> None:
        """Start behind, at a cursor; a saved one makes it ``resumed``."""
        self.topic, self.names = topic, None if names is None else frozenset(names)
        self.cursor = self.position = cursor
        self.behind, self.resumed = True, resumed
        self.closed, self.most = False, 0
        self._failure: PipelineError | None = None
        self._room, self._on_drained = room, on_drained
        self._queue: deque[Event | Cursor] = deque()
        self._held = 0
        self._ready, self._idle = asyncio.Event(), False
        self._known: set[int] = set()

    def __aiter__(self) -> Self:
        """The subscription itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event, until the subscription is closed.

        Raises:
            PipelineError: the hub has failed for good.
        """
        while not self.closed:
            while self._queue:
                item = self._queue.popleft()
                if not isinstance(item, Cursor):
                    self._held -= 1
                    return item
                self.position = item
            self._ready.clear()
            if self.behind:
                self._on_drained(self)
            self._idle = True
            try:
                await self._ready.wait()
            finally:
                self._idle = False
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    @property
    def empty(self) -> bool:
        """Whether no event waits in the queue."""
        return not self._held

    def wants_fleeting(self, event: Fleeting) -> bool:
        """Whether a fleeting event is wanted."""
        return self.topic in (None, event.topic) and self.wants(name_of(event))

    def wants(self, *given: str | None) -> bool:
        """Whether one of these names is wanted."""
        return self.names is None or not self.names.isdisjoint(given)

    def wants_change(self, change: Change) -> bool:
        """Whether a change of the feed is wanted."""
        return self.topic in (None, change.topic) and self.wants(change.event, change.table)

    def begin_with(self, events: Collection[Event]) -> None:
        """Replay past events; none of them is delivered again."""
        self._known = {event.version for event in events if isinstance(event, Changed)}
        for event in events:
            self._put(event)

    def offer(self, event: Event) -> bool:
        """Put an event into the queue; returns False if the queue is full."""
        if isinstance(event, Changed) and event.version in self._known:
            return True
        if self._held >= self._room:
            return False
        self._put(event)
        return True

    def fall_behind(self, cursor: Cursor) -> None:
        """Read its events from the feed, from this cursor on."""
        self.behind = True
        # This also wakes it: the queue may be empty already.
        self.reach(cursor)

    def reach(self, cursor: Cursor) -> None:
        """Note that everything before a cursor is in the queue."""
        self.cursor = cursor
        if self._idle and not self._queue and not self.behind:
            # The queue is empty, and it need not wake up.
            self.position = cursor
            return
        if self._queue and isinstance(self._queue[-1], Cursor):
            self._queue.pop()
        self._queue.append(cursor)
        self._ready.set()

    def resync(self, cursor: Cursor) -> None:
        """Replace the queue by a ``Resync``: the missed changes cannot be determined."""
        self._queue.clear()
        self._held = 0
        self._put(Resync())
        self.reach(cursor)

    def close(self, failure: PipelineError | None = None) -> None:
        """End it; with ``failure`` the iteration raises that."""
        self.closed, self._failure = True, failure
        self._queue.clear()
        self._ready.set()

    def _put(self, event: Event) -> None:
        self._queue.append(event)
        self._held += 1
        self.most = max(self.most, self._held)
        self._ready.set()
