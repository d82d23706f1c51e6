"""The hub of a process: it listens once, reads the feed once, and serves all subscriptions.

One task reads, so events are in order: first the window up to now for all subscriptions that keep
up, then one page each for those that fell behind and have emptied their queues.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Self

import sqlalchemy as sa

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.fleeting import FleetingEvents
from pipeline.application.realtime.history import History
from pipeline.application.realtime.limits import Limits, Metrics
from pipeline.application.realtime.read_schedule import ReadSchedule
from pipeline.application.realtime.reader import Change, Page, Reader
from pipeline.application.realtime.subscribers import (
    Subscribers,
    concerned,
    deliver,
    listening,
    resync,
)
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.backoff import Backoff
from pipeline.application.realtime.transports.events import (
    Changed,
    Event,
    Fleeting,
    name_of,
    require_known,
)
from pipeline.application.realtime.transports.link import Link, foreseen
from pipeline.application.realtime.transports.session import Session
from pipeline.application.realtime.transports.transport import (
    Connected,
    Hint,
    Lost,
    Signal,
    Transport,
    Unreadable,
)
from pipeline.core.errors import PipelineError
from pipeline.declared.feed import CANARY_TOPICS

log = logging.getLogger(__name__)


def _log(error: PipelineError) -> None:
    log.warning("%s", error)


class Hub:
    """Delivers committed changes to subscriptions; an async context manager."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        tables: sa.MetaData,
        *,
        limits: Limits | None = None,
        backoff: Callable[[], Backoff] = Backoff,
        on_error: Callable[[PipelineError], None] = _log,
    ) -> None:
        """Connect later.

        Args:
            transport: delivers hints.
            url: the database, in the format of libpq.
            tables: the declared tables.
            limits: queue sizes and intervals.
            backoff: creates the waits between attempts.
            on_error: gets errors; the hub tries again.
        """
        self.limits = limits or Limits()
        self._transport, self._report = transport, on_error
        self._session = Session(url)
        self._reader = Reader(self._session, tables, most=self.limits.page)
        self._backoff = backoff()
        self._link = Link(
            transport,
            backoff=backoff(),
            failures=self.limits.failures,
            settled=self.limits.settled,
        )
        self._metrics = Metrics()
        self._history = History(each=self.limits.replay)
        self._cursor: Cursor | None = None
        self._subscriptions = Subscribers(transport.watch)
        self._fleeting = FleetingEvents(
            transport,
            self._reader,
            self._subscriptions,
            self._metrics,
            pause=self.limits.silence,
            on_error=self._on_error,
        )
        self._drained: dict[Subscription, None] = {}
        self._schedule = ReadSchedule(self.limits)
        self._unreadable = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Read the present position of the feed, and start to listen.

        Raises:
            TargetError: the feed cannot be read.
        """
        try:
            self._cursor = await self._reader.now()
            self._fleeting.begin(self._cursor)
        except BaseException:
            await self._session.close()
            raise
        self._schedule.mark_read()
        self._tasks = [
            asyncio.create_task(self._link.run(self._take, on_error=self._on_error)),
            asyncio.create_task(self._read()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all subscriptions and close all connections."""
        for task in self._tasks:
            task.cancel()
        for subscription in self._subscriptions:
            self.unsubscribe(subscription)
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            # Also if the caller is cancelled again while it waits.
            self._tasks = []
            try:
                await self._transport.close()
            finally:
                await self._session.close()

    @property
    def metrics(self) -> Metrics:
        """Counters since the start."""
        self._metrics.reads = self._reader.reads
        self._metrics.rows_read = self._reader.rows_read
        self._metrics.unreadable = self._unreadable + self._reader.unreadable
        self._metrics.reconnects = max(0, self._link.connects - 1)
        return self._metrics

    @property
    def connected(self) -> bool:
        """Whether the transport is connected; if not, the feed is polled."""
        return self._link.connected

    def subscribe(
        self,
        names: Collection[str] | None = None,
        *,
        topic: str | None = None,
        since: Cursor | None = None,
        replay: int = 0,
    ) -> Subscription:
        """Subscribe; to miss nothing, subscribe first and read the tables then.

        Args:
            names: of events and tables; None for all.
            topic: the topic of the events; None for all topics.
            since: the ``position`` of an earlier subscription; None starts at the hub's last read.
            replay: number of the topic's last changes to deliver first.

        Raises:
            PipelineError: the hub is not open, or a name is unknown.
        """
        if self._cursor is None or not self._tasks:
            raise PipelineError("The hub is not open", remedy="Use it as `async with hub`")
        require_known(names or (), tables=self._reader.published)
        subscription = Subscription(
            topic=topic,
            names=names,
            # Others may be in the middle of a window.
            cursor=since or Cursor(self._cursor.epoch, self._cursor.since),
            room=self.limits.room,
            resumed=since is not None,
            on_drained=self._on_drained,
        )
        if replay and since is None:
            wanted = self._history.last(
                min(replay, self.limits.room),
                topic,
                lambda event: subscription.wants(name_of(event), event.table),
            )
            subscription.begin_with(wanted)
        self._subscriptions.add(subscription)
        self._on_drained(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        subscription.close()
        self._drained.pop(subscription, None)
        self._subscriptions.remove(subscription)

    async def send(self, event: Fleeting) -> None:
        """Send a fleeting event to all subscribers of its topic.

        Raises:
            PipelineError: it could not be sent.
        """
        await self._transport.send(event)

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, Hint):
            if signal.topic is None or self._subscriptions.of(signal.topic):
                self._schedule.hint(fleeting=signal.fleeting)
        elif isinstance(signal, Unreadable):
            self._unreadable += 1
        elif isinstance(signal, Connected):
            self._schedule.request()
        elif isinstance(signal, Lost):
            # From now on the feed may have to be polled.
            self._schedule.wake()
        else:
            self._fleeting.deliver(signal)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Close all subscriptions if a task of the hub has failed."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        failure = PipelineError(
            f"The hub has stopped ({type(error).__name__}: {error})",
            remedy="Open a new hub, and report this error",
        )
        self._on_error(failure)
        for subscription in self._subscriptions:
            subscription.close(failure)

    def _on_drained(self, subscription: Subscription) -> None:
        self._drained[subscription] = None
        self._schedule.wake()

    def _on_error(self, error: PipelineError) -> None:
        self._metrics.errors += 1
        try:
            self._report(error)
        except Exception:  # The application's code can raise anything.
            log.exception("The error handler failed")

    async def _read(self) -> None:
        """Read the feed when it is due, until cancelled."""
        while True:
            due, found = await self._schedule.next(polling=self._link.polling), 0
            try:
                if due.changes or self._position.window is not None:
                    found += await self._read_window(hinted=due.changes_hinted)
                if due.fleeting:
                    found += await self._fleeting.read(self._position)
                for subscription in list(self._drained):
                    # One page each, so that none waits for the others.
                    if not subscription.closed:
                        await self._catch_up(subscription)
                self._backoff.reset()
            except Exception as error:  # The next read may succeed.
                self._on_error(foreseen(error, "Reading the feed"))
                if due.changes:
                    self._schedule.request()
                await asyncio.sleep(self._backoff.next())
                self._schedule.wake()
            await self._schedule.pause(due, found=found)

    @property
    def _position(self) -> Cursor:
        if self._cursor is None:
            raise PipelineError("The hub is not open", remedy="Use it as `async with hub`")
        return self._cursor

    async def _read_window(self, *, hinted: bool) -> int:
        """Deliver all changes up to now to subscriptions that keep up; returns their number."""
        found = 0
        self._schedule.mark_read()
        while True:
            # New subscriptions meanwhile start behind, at the first cursor of this window.
            everyone = list(self._subscriptions)
            page = await self._reader.page(self._position, topics=self._subscriptions.topics)
            if page.missed:
                self._history.clear()
                resync(
                    [each for each in everyone if not each.behind],
                    page.cursor,
                    metrics=self._metrics,
                )
            else:
                events = await self._events(page, everyone)
                for _, event in events:
                    if isinstance(event, Changed) and event.topic not in CANARY_TOPICS:
                        self._history.add(event)
                deliver(
                    page,
                    events,
                    [each for each in everyone if not each.behind],
                    metrics=self._metrics,
                )
                self._metrics.healed += 0 if hinted else len(events)
            self._cursor, found = page.cursor, found + len(page.changes)
            if page.done:
                return found

    async def _catch_up(self, subscription: Subscription) -> None:
        """Deliver one more page to a subscription that fell behind."""
        if self._position.window is not None or subscription.resumed:
            # A saved cursor may be newer than the last read.
            await self._read_window(hinted=True)
            subscription.resumed = False
        if subscription.cursor == self._position:
            subscription.behind = False
        else:
            topics = None if subscription.topic is None else (subscription.topic,)
            page = await self._reader.page(
                subscription.cursor, topics=topics, until=self._position.since
            )
            if page.missed:
                resync([subscription], self._position, metrics=self._metrics)
            else:
                events = await self._events(page, [subscription])
                deliver(page, events, [subscription], metrics=self._metrics)
        # Only now, so that a failed read is repeated.
        self._drained.pop(subscription, None)
        if subscription.behind and subscription.empty:
            # Nobody reads an empty queue who does not wait already.
            self._on_drained(subscription)

    async def _events(
        self, page: Page, subscriptions: Sequence[Subscription]
    ) -> list[tuple[Change, Event]]:
        """The changes of a page that one of these subscriptions wants."""
        topics = concerned(subscriptions, page)
        return await self._reader.events(
            change
            for change in page.changes
            if any(each.wants_change(change) for each in listening(topics, change.topic))
        )
