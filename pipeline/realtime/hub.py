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
from dataclasses import dataclass, replace
from typing import Self

import sqlalchemy as sa

from pipeline.move.errors import PipelineError
from pipeline.realtime.backoff import Backoff
from pipeline.realtime.cursor import Cursor
from pipeline.realtime.events import FLEETING, STORED, Changed, Event, Fleeting, name_of
from pipeline.realtime.history import History
from pipeline.realtime.link import Link, foreseen
from pipeline.realtime.reader import Change, Page, Reader
from pipeline.realtime.session import Session
from pipeline.realtime.subscription import Subscription
from pipeline.realtime.transport import Connected, Hint, Lost, Signal, Transport, Unreadable
from pipeline.tables.feed import CANARY_TOPICS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much and how long.

    Attributes:
        room: events that wait for one subscriber.
        page: changes that are read at once.
        burst: seconds between two looks at the feed.
        calm: the same at most, while hints announce what is not there.
        silence: seconds without a hint after which the feed is looked at all the same.
        poll: the same while the transport cannot be reached.
        failures: the transport counts as out of reach after so many in a row.
        settled: a connection that held so many seconds was a success.
        replay: changes of a topic that are remembered.
    """

    room: int = 1000
    page: int = 500
    burst: float = 0.01
    calm: float = 0.05
    silence: float = 5.0
    poll: float = 2.0
    failures: int = 3
    settled: float = 5.0
    replay: int = 50


@dataclass
class Metrics:
    """What a hub has done since it began.

    Attributes:
        delivered: events that were put into queues.
        healed: changes that were found without any hint.
        resyncs: subscribers that were told to read anew.
        reads: queries.
        rows_read: changes that were read.
        reconnects: connections after the first one.
        lagging: how often a subscriber fell behind.
        most_waiting: the most events that waited for one subscriber.
        fleeting_dropped: fleeting events for which there was no room.
        unreadable: what arrived and could not be read, and was passed over.
        errors: failures that were told and tried again.
    """

    delivered: int = 0
    healed: int = 0
    resyncs: int = 0
    reads: int = 0
    rows_read: int = 0
    reconnects: int = 0
    lagging: int = 0
    most_waiting: int = 0
    fleeting_dropped: int = 0
    unreadable: int = 0
    errors: int = 0


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
        self._heard: Cursor | None = None
        self._subscriptions: dict[str | None, set[Subscription]] = {}
        self._drained: dict[Subscription, None] = {}
        self._wake = asyncio.Event()
        self._look = self._hinted = self._spoken = False
        self._looked, self._pause, self._deaf_until = 0.0, self.limits.burst, 0.0
        self._unreadable = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Find out where the feed is now, and begin to listen.

        Raises:
            TargetError: the feed cannot be read.
        """
        try:
            self._cursor = self._heard = await self._reader.now()
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
        for subscription in self._all():
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
        self._demand_known(names or ())
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
        self._subscriptions.setdefault(topic, set()).add(made)
        if len(self._subscriptions[topic]) == 1:
            self._watch()
        self._on_drained(made)
        return made

    def _demand_known(self, names: Collection[str]) -> None:
        known = {*STORED, *FLEETING, *self._reader.told}
        for name in names:
            if name not in known:
                raise PipelineError(
                    f"Nothing is ever told of {name!r}",
                    remedy=f"Name one of {', '.join(sorted(known))}",
                )

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell a subscription nothing any more."""
        subscription.close()
        self._drained.pop(subscription, None)
        of_topic = self._subscriptions.get(subscription.topic, set())
        of_topic.discard(subscription)
        if not of_topic and self._subscriptions.pop(subscription.topic, None) is not None:
            self._watch()

    async def send(self, event: Fleeting) -> None:
        """Tell everybody of an event that nothing keeps.

        Raises:
            PipelineError: it could not be sent.
        """
        await self._transport.send(event)

    def _watch(self) -> None:
        self._transport.watch([topic for topic in self._subscriptions if topic is not None])

    def _all(self) -> list[Subscription]:
        return [each for some in self._subscriptions.values() for each in some]

    def _of(self, topic: str) -> list[Subscription]:
        """Who listens to a topic."""
        nobody: set[Subscription] = set()
        everything = nobody if topic in CANARY_TOPICS else self._subscriptions.get(None, nobody)
        return [*self._subscriptions.get(topic, nobody), *everything]

    def _topics(self) -> Sequence[str] | None:
        """Topics that somebody listens to; None for all there are."""
        if None in self._subscriptions:
            return None
        return [topic for topic in self._subscriptions if topic is not None]

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, Hint):
            if self._subscriptions if signal.topic is None else self._of(signal.topic):
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
            self._tell_fleeting(signal)

    def _tell_fleeting(self, event: Fleeting) -> None:
        for subscription in self._of(event.topic):
            if not subscription.wants_fleeting(event):
                continue
            if subscription.offer(event):
                self._metrics.delivered += 1
            else:
                self._metrics.fleeting_dropped += 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a hub that has ended by a fault of its own."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        failure = PipelineError(
            f"The hub has ended ({type(fault).__name__}: {fault})",
            remedy="Open another one, and report this",
        )
        self._on_error(failure)
        for subscription in self._all():
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
                    found += await self._read_fleeting()
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

    async def _read_fleeting(self) -> int:
        """Tell new fleeting events, unless the transport does; how many there were."""
        loop = asyncio.get_running_loop()
        if self._transport.carries or loop.time() < self._deaf_until:
            return 0
        topics = {each.topic for each in self._all() if each.wants(*FLEETING)}
        if not topics:
            # Whoever comes later is told what is sent from now on.
            self._heard = replace(self._at, window=None)
            return 0
        named = None if None in topics else [each for each in topics if each is not None]
        try:
            found, dropped, self._heard = await self._reader.fleeting(
                self._heard or self._at, topics=named
            )
        except PipelineError as error:
            # Changes are told all the same, and nobody asks again at every hint.
            self._deaf_until = loop.time() + self.limits.silence
            self._on_error(error)
            return 0
        self._metrics.fleeting_dropped += dropped
        for event in found:
            self._tell_fleeting(event)
        return len(found) + dropped

    async def _round(self, *, hinted: bool) -> int:
        """Tell all who keep up what was committed until now; how many changes there were."""
        found = 0
        self._looked = asyncio.get_running_loop().time()
        while True:
            # Who subscribes meanwhile begins behind, at the cursor that this window begins with.
            everyone = self._all()
            page = await self._reader.page(self._at, topics=self._topics())
            if page.missed:
                self._history.clear()
                self._resync([each for each in everyone if not each.behind], page.cursor)
            else:
                told = await self._events(page, everyone)
                for _, event in told:
                    if isinstance(event, Changed) and event.topic not in CANARY_TOPICS:
                        self._history.add(event)
                self._deliver(page, told, [each for each in everyone if not each.behind])
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
                self._resync([subscription], self._at)
            else:
                self._deliver(page, await self._events(page, [subscription]), [subscription])
        # Only now: what fails is tried again.
        self._drained.pop(subscription, None)

    def _resync(self, subscriptions: Sequence[Subscription], cursor: Cursor) -> None:
        for subscription in subscriptions:
            subscription.resync(cursor)
            self._metrics.resyncs += 1

    async def _events(
        self, page: Page, subscriptions: Sequence[Subscription]
    ) -> list[tuple[Change, Event]]:
        """Those changes of a page that one of some subscribers wants."""
        topics = _by_topic(subscriptions, page)
        return await self._reader.events(
            change
            for change in page.changes
            if any(each.wants_change(change) for each in _listening(topics, change.topic))
        )

    def _deliver(
        self,
        page: Page,
        told: Sequence[tuple[Change, Event]],
        subscriptions: Sequence[Subscription],
    ) -> None:
        """Put what each one wants into its queue; who has no room left falls behind."""
        topics, fallen = _by_topic(subscriptions, page), set[Subscription]()
        for change, event in told:
            for each in _listening(topics, change.topic):
                if each in fallen or not each.wants_change(change):
                    continue
                if each.offer(event):
                    self._metrics.delivered += 1
                    continue
                self._metrics.lagging += not each.behind
                each.fall_behind(page.before(change))
                fallen.add(each)
        for each in subscriptions:
            self._metrics.most_waiting = max(self._metrics.most_waiting, each.most)
            if each not in fallen:
                each.reach(page.cursor)


def _by_topic(
    subscriptions: Sequence[Subscription], page: Page
) -> dict[str | None, list[Subscription]]:
    """Those whom one of a page's changes may concern; of thousands these are few."""
    concerned = {None, *(change.topic for change in page.changes)}
    made: dict[str | None, list[Subscription]] = {}
    for each in subscriptions:
        if each.topic in concerned and not each.closed:
            made.setdefault(each.topic, []).append(each)
    return made


def _listening(topics: dict[str | None, list[Subscription]], topic: str) -> list[Subscription]:
    everything = () if topic in CANARY_TOPICS else topics.get(None, ())
    return [*topics.get(topic, ()), *everything]
