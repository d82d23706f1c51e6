"""Fleeting events, such as typing: delivered once or not at all, and not stored."""

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
    """Delivers fleeting events, from the feed if the transport does not carry them."""

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
        """Use the parts of a hub.

        Args:
            transport: may carry the events itself.
            reader: reads them otherwise.
            subscribers: the subscriptions of the hub.
            metrics: counts delivered and dropped events.
            pause: seconds between a failed read and the next one.
            on_error: gets the errors of reads.
        """
        self._transport, self._reader = transport, reader
        self._subscribers, self._metrics = subscribers, metrics
        self._pause, self._on_error = pause, on_error
        self._position: Cursor | None = None
        self._not_before = 0.0

    def begin(self, position: Cursor) -> None:
        """Deliver events from a position on."""
        self._position = position

    def deliver(self, event: Fleeting) -> None:
        """Put an event into the queues of subscriptions that want it and have room."""
        for subscription in self._subscribers.of(event.topic):
            if not subscription.wants_fleeting(event):
                continue
            if subscription.offer(event):
                self._metrics.delivered += 1
            else:
                self._metrics.fleeting_dropped += 1

    async def read(self, now: Cursor) -> int:
        """Deliver new events, unless the transport does; returns their number."""
        loop = asyncio.get_running_loop()
        if self._transport.carries or loop.time() < self._not_before:
            return 0
        topics = {each.topic for each in self._subscribers if each.wants(*FLEETING)}
        if not topics:
            # Later subscriptions get events from now on.
            self._position = replace(now, window=None)
            return 0
        selected = None if None in topics else [each for each in topics if each is not None]
        try:
            found, dropped, self._position = await self._reader.fleeting(
                self._position or now, topics=selected
            )
        except PipelineError as error:
            # Changes are still delivered, and not every hint causes another read.
            self._not_before = loop.time() + self._pause
            self._on_error(error)
            return 0
        self._metrics.fleeting_dropped += dropped
        for event in found:
            self.deliver(event)
        return len(found) + dropped
