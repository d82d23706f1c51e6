"""One subscriber's events, in order, in a queue of bounded length.

Who is slow falls behind: from then on nothing is put into its queue. When it has taken what was in
there, it is told the rest from the feed, a page at a time, until it has caught up. So a slow
subscriber costs nobody else anything, and loses nothing.
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
        topic: whose events; None for those of all topics.
        names: which events, and of which tables; None for all.
        cursor: up to where its queue was filled.
        position: everything before it was taken by the subscriber, who may keep it and go on from
            there after a restart.
        behind: whether it is told from the feed.
        resumed: whether its cursor may be newer than the hub's.
        closed: whether nothing is told any more.
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
        """Begin behind, at a cursor; at one that was kept, it is ``resumed``."""
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
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event; it waits for one until the subscription is closed.

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

    def wants_fleeting(self, event: Fleeting) -> bool:
        """Whether an event that nothing keeps is asked for."""
        return self.topic in (None, event.topic) and self.wants(name_of(event))

    def wants(self, *given: str | None) -> bool:
        """Whether one of these names is asked for."""
        return self.names is None or not self.names.isdisjoint(given)

    def wants_change(self, change: Change) -> bool:
        """Whether a change of the feed is asked for."""
        return self.topic in (None, change.topic) and self.wants(change.event, change.table)

    def begin_with(self, events: Collection[Event]) -> None:
        """Replay events that were told before it began; none of them is told again."""
        self._known = {event.version for event in events if isinstance(event, Changed)}
        for event in events:
            self._put(event)

    def offer(self, event: Event) -> bool:
        """Put an event into the queue.

        Returns:
            False if there is no room for it.
        """
        if isinstance(event, Changed) and event.version in self._known:
            return True
        if self._held >= self._room:
            return False
        self._put(event)
        return True

    def fall_behind(self, cursor: Cursor) -> None:
        """From this cursor on it is told from the feed."""
        self.behind = True
        # This wakes it as well: it may have taken everything just now.
        self.reach(cursor)

    def reach(self, cursor: Cursor) -> None:
        """Everything before a cursor is in the queue."""
        self.cursor = cursor
        if self._idle and not self._queue and not self.behind:
            # It has taken everything, and of thousands nobody is woken for nothing.
            self.position = cursor
            return
        if self._queue and isinstance(self._queue[-1], Cursor):
            self._queue.pop()
        self._queue.append(cursor)
        self._ready.set()

    def resync(self, cursor: Cursor) -> None:
        """What was missed is unknowable; what waits in the queue is older than that."""
        self._queue.clear()
        self._held = 0
        self._put(Resync())
        self.reach(cursor)

    def close(self, failure: PipelineError | None = None) -> None:
        """Tell nothing any more, or only what has failed."""
        self.closed, self._failure = True, failure
        self._queue.clear()
        self._ready.set()

    def _put(self, event: Event) -> None:
        self._queue.append(event)
        self._held += 1
        self.most = max(self.most, self._held)
        self._ready.set()
