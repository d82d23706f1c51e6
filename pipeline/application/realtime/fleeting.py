"""Events that nothing keeps, such as typing: delivered once, or not at all."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.limits import Metrics
from pipeline.application.realtime.reader import Reader
from pipeline.application.realtime.subscribers import Subscribers
from pipeline.application.realtime.transports.events import FLEETING, Fleeting
from pipeline.application.realtime.transports.transport import Transport
from pipeline.core.errors import PipelineError


class FleetingEvents:
    """Reads fleeting events where the transport does not carry them, and delivers them."""

    def __init__(
        self,
        transport: Transport,
        reader: Reader,
        subscribers: Subscribers,
        metrics: Metrics,
        *,
        pause: float,
        on_error: Callable[[PipelineError], None],
    ) -> None:
        """Take what the hub has.

        Args:
            transport: may carry the events itself.
            reader: reads them otherwise.
            subscribers: those who may want them.
            metrics: count what is delivered and dropped.
            pause: seconds until the next read after one that failed.
            on_error: takes the failure of a read.
        """
        self._transport, self._reader = transport, reader
        self._subscribers, self._metrics = subscribers, metrics
        self._pause, self._on_error = pause, on_error
        self._position: Cursor | None = None
        self._not_before = 0.0

    def begin(self, position: Cursor) -> None:
        """Deliver what is sent from a position on."""
        self._position = position

    def deliver(self, event: Fleeting) -> None:
        """Put an event into the queues of those who want it and have room."""
        for subscription in self._subscribers.of(event.topic):
            if not subscription.wants_fleeting(event):
                continue
            if subscription.offer(event):
                self._metrics.delivered += 1
            else:
                self._metrics.fleeting_dropped += 1

    async def read(self, now: Cursor) -> int:
        """Deliver new events, unless the transport does.

        Returns:
            How many there were.
        """
        loop = asyncio.get_running_loop()
        if self._transport.carries or loop.time() < self._not_before:
            return 0
        topics = {each.topic for each in self._subscribers if each.wants(*FLEETING)}
        if not topics:
            # Whoever subscribes later gets what is sent from now on.
            self._position = replace(now, window=None)
            return 0
        named = None if None in topics else [each for each in topics if each is not None]
        try:
            found, dropped, self._position = await self._reader.fleeting(
                self._position or now, topics=named
            )
        except PipelineError as error:
            # Changes are delivered all the same, and not every hint asks again.
            self._not_before = loop.time() + self._pause
            self._on_error(error)
            return 0
        self._metrics.fleeting_dropped += dropped
        for event in found:
            self.deliver(event)
        return len(found) + dropped
