"""One for a process: listens once, reads the feed once, and tells all subscriptions.

Hints decide when to look, never what is told: whoever can connect can forge them. Hints that come
during a look cause one more, a moment later; the moment is longer while looks find nothing. When
none comes for some seconds the feed is looked at all the same, and so it is after every connection.
One task reads, so what it does is in order: first the window up to now for all who keep up, then a
page each for those who fell behind and have taken what they had.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Self

import sqlalchemy as sa

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.fleeting import FleetingEvents
from pipeline.application.realtime.history import History
from pipeline.application.realtime.limits import Limits, Metrics
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
    """Tells subscriptions what was committed; an async context manager."""

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
        """Do nothing yet.

        Args:
            transport: by which way hints come.
            url: the database that is read, as libpq reads it.
            tables: declares what of each table is told.
            limits: how much and how long.
            backoff: makes what says how long to wait between tries.
            on_error: takes what failed and is tried again.
        """
        self.limits = limits or Limits()
        self._transport, self._tell_error = transport, on_error
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
        self._wake = asyncio.Event()
        self._look = self._hinted = self._spoken = False
        self._looked, self._pause = 0.0, self.limits.burst
        self._unreadable = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Find out where the feed is now, and begin to listen.

        Raises:
            TargetError: the feed cannot be read.
        """
        try:
            self._cursor = await self._reader.now()
            self._fleeting.begin(self._cursor)
        except BaseException:
            await self._session.close()
            raise
        self._looked = asyncio.get_running_loop().time()
        self._tasks = [
            asyncio.create_task(self._link.run(self._take, on_error=self._on_error)),
            asyncio.create_task(self._read()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every subscription and give back everything."""
        for task in self._tasks:
            task.cancel()
        for subscription in self._subscriptions:
            self.unsubscribe(subscription)
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            # Whoever is cancelled once more while they wait leaves nothing open either.
            self._tasks = []
            try:
                await self._transport.close()
            finally:
                await self._session.close()

    @property
    def metrics(self) -> Metrics:
        """What was done until now."""
        self._metrics.reads = self._reader.reads
        self._metrics.rows_read = self._reader.rows_read
        self._metrics.unreadable = self._unreadable + self._reader.unreadable
        self._metrics.reconnects = max(0, self._link.connects - 1)
        return self._metrics

    @property
    def connected(self) -> bool:
        """Whether the transport tells of changes now; if not, the feed is polled."""
        return self._link.connected

    def subscribe(
        self,
        names: Collection[str] | None = None,
        *,
        topic: str | None = None,
        since: Cursor | None = None,
        replay: int = 0,
    ) -> Subscription:
        """Subscribe; who wants to know everything subscribes first and reads its tables then.

        Args:
            names: of events and tables; None for all.
            topic: whose events; None for those of every topic.
            since: a ``position`` that a subscription had; without it from the hub's last look on.
            replay: so many of the topic's last changes are told first.

        Raises:
            PipelineError: the hub is not open, or nothing of a name is ever told.
        """
        if self._cursor is None or not self._tasks:
            raise PipelineError("The hub is not open", remedy="Use it as `async with hub`")
        require_known(names or (), tables=self._reader.told)
        made = Subscription(
            topic=topic,
            names=names,
            # A window may be read just now, for others.
            cursor=since or Cursor(self._cursor.epoch, self._cursor.since),
            room=self.limits.room,
            resumed=since is not None,
            on_drained=self._on_drained,
        )
        if replay and since is None:
            wanted = self._history.last(
                min(replay, self.limits.room),
                topic,
                lambda event: made.wants(name_of(event), event.table),
            )
            made.begin_with(wanted)
        self._subscriptions.add(made)
        self._on_drained(made)
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell a subscription nothing any more."""
        subscription.close()
        self._drained.pop(subscription, None)
        self._subscriptions.remove(subscription)

    async def send(self, event: Fleeting) -> None:
        """Tell everybody of an event that nothing keeps.

        Raises:
            PipelineError: it could not be sent.
        """
        await self._transport.send(event)

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, Hint):
            if (
                self._subscriptions
                if signal.topic is None
                else self._subscriptions.of(signal.topic)
            ):
                self._spoken = self._spoken or signal.fleeting
                self._hinted = self._hinted or not signal.fleeting
                self._wake.set()
        elif isinstance(signal, Unreadable):
            self._unreadable += 1
        elif isinstance(signal, Connected):
            self._look = True
            self._wake.set()
        elif isinstance(signal, Lost):
            # From now on the feed may have to be looked at more often.
            self._wake.set()
        else:
            self._fleeting.deliver(signal)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a hub that has ended by a fault of its own."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        failure = PipelineError(
            f"The hub has ended ({type(fault).__name__}: {fault})",
            remedy="Open another one, and report this",
        )
        self._on_error(failure)
        for subscription in self._subscriptions:
            subscription.close(failure)

    def _on_drained(self, subscription: Subscription) -> None:
        self._drained[subscription] = None
        self._wake.set()

    def _on_error(self, error: PipelineError) -> None:
        self._metrics.errors += 1
        try:
            self._tell_error(error)
        except Exception:  # What an application's code may raise, nobody knows here.
            log.exception("The handler of errors has failed")

    async def _read(self) -> None:
        """Look at the feed when there is a reason to, until cancelled."""
        while True:
            await self._reason()
            hinted, due = self._hinted, self._hinted or self._look
            spoken, hints = self._spoken or self._look, self._hinted or self._spoken
            self._hinted = self._look = self._spoken = False
            found = 0
            try:
                if due or self._at.window is not None:
                    found += await self._round(hinted=hinted)
                if spoken:
                    found += await self._fleeting.read(self._at)
                for subscription in list(self._drained):
                    # One page each, so that none of them waits for another.
                    if not subscription.closed:
                        await self._catch_up(subscription)
                self._backoff.reset()
            except Exception as error:  # Whatever was read, the next look may be able to.
                self._on_error(foreseen(error, "Reading the feed"))
                # What was not read is still to be read.
                self._look = self._look or due
                await asyncio.sleep(self._backoff.next())
                self._wake.set()
            # In a burst many transactions end within one look; who cries wolf waits longer.
            longer = min(2 * self._pause, self.limits.calm)
            self._pause = longer if hints and not found else self.limits.burst
            await asyncio.sleep(self._pause)

    async def _reason(self) -> None:
        """Wait for a hint, for somebody who has caught up, or for silence."""
        patience = self.limits.poll if self._link.polling else self.limits.silence
        until = self._looked + patience
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        # Even if those who fell behind never let it come to silence.
        self._look = self._look or asyncio.get_running_loop().time() >= until
        self._wake.clear()

    @property
    def _at(self) -> Cursor:
        if self._cursor is None:
            raise PipelineError("The hub is not open", remedy="Use it as `async with hub`")
        return self._cursor

    async def _round(self, *, hinted: bool) -> int:
        """Tell all who keep up what was committed until now; how many changes there were."""
        found = 0
        self._looked = asyncio.get_running_loop().time()
        while True:
            # Who subscribes meanwhile begins behind, at the cursor that this window begins with.
            everyone = list(self._subscriptions)
            page = await self._reader.page(self._at, topics=self._subscriptions.topics)
            if page.missed:
                self._history.clear()
                resync(
                    [each for each in everyone if not each.behind],
                    page.cursor,
                    metrics=self._metrics,
                )
            else:
                told = await self._events(page, everyone)
                for _, event in told:
                    if isinstance(event, Changed) and event.topic not in CANARY_TOPICS:
                        self._history.add(event)
                deliver(
                    page,
                    told,
                    [each for each in everyone if not each.behind],
                    metrics=self._metrics,
                )
                self._metrics.healed += 0 if hinted else len(told)
            self._cursor, found = page.cursor, found + len(page.changes)
            if page.done:
                return found

    async def _catch_up(self, subscription: Subscription) -> None:
        """Tell somebody who fell behind one page more."""
        if self._at.window is not None or subscription.resumed:
            # A cursor that was kept may be newer than the last look.
            await self._round(hinted=True)
            subscription.resumed = False
        if subscription.cursor == self._at:
            subscription.behind = False
        else:
            topics = None if subscription.topic is None else (subscription.topic,)
            page = await self._reader.page(subscription.cursor, topics=topics, until=self._at.since)
            if page.missed:
                resync([subscription], self._at, metrics=self._metrics)
            else:
                told = await self._events(page, [subscription])
                deliver(page, told, [subscription], metrics=self._metrics)
        # Only now: what fails is tried again.
        self._drained.pop(subscription, None)

    async def _events(
        self, page: Page, subscriptions: Sequence[Subscription]
    ) -> list[tuple[Change, Event]]:
        """Those changes of a page that one of some subscribers wants."""
        topics = concerned(subscriptions, page)
        return await self._reader.events(
            change
            for change in page.changes
            if any(each.wants_change(change) for each in listening(topics, change.topic))
        )
