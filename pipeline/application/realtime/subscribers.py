"""Who listens to which topic."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.limits import Metrics
from pipeline.application.realtime.reader import Change, Page
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Event
from pipeline.declared.feed import CANARY_TOPICS


class Subscribers:
    """All subscriptions of a hub, by topic; None stands for every topic."""

    def __init__(self, watch: Callable[[Sequence[str]], None]) -> None:
        """Begin with nobody.

        Args:
            watch: is called with all named topics whenever these have changed.
        """
        self._watch = watch
        self._by_topic: dict[str | None, set[Subscription]] = {}

    def __iter__(self) -> Iterator[Subscription]:
        """All of them, as they are now; they may come and go meanwhile."""
        return iter([each for some in self._by_topic.values() for each in some])

    def add(self, subscription: Subscription) -> None:
        """Let one listen."""
        of_topic = self._by_topic.setdefault(subscription.topic, set())
        of_topic.add(subscription)
        if len(of_topic) == 1:
            self._changed()

    def remove(self, subscription: Subscription) -> None:
        """Let one listen no more."""
        of_topic = self._by_topic.get(subscription.topic, set())
        of_topic.discard(subscription)
        if not of_topic and self._by_topic.pop(subscription.topic, None) is not None:
            self._changed()

    def _changed(self) -> None:
        self._watch([topic for topic in self._by_topic if topic is not None])

    def of(self, topic: str) -> list[Subscription]:
        """Those who listen to a topic."""
        return listening(self._by_topic, topic)

    def hear(self, topic: str | None) -> bool:
        """Whether anybody listens to a topic; None asks for any topic."""
        return bool(self._by_topic if topic is None else self.of(topic))

    @property
    def topics(self) -> Sequence[str] | None:
        """Topics that somebody listens to; None for all there are."""
        if None in self._by_topic:
            return None
        return [topic for topic in self._by_topic if topic is not None]


Topics = dict[str | None, list[Subscription]]
"""Subscriptions by topic."""


def concerned(subscriptions: Sequence[Subscription], page: Page) -> Topics:
    """Those whom one of a page's changes may concern; of thousands these are few."""
    topics = {None, *(change.topic for change in page.changes)}
    made: Topics = {}
    for each in subscriptions:
        if each.topic in topics and not each.closed:
            made.setdefault(each.topic, []).append(each)
    return made


def listening(
    topics: Topics | dict[str | None, set[Subscription]], topic: str
) -> list[Subscription]:
    """Those who listen to a topic; whoever listens to all of them does not hear canaries."""
    everything = () if topic in CANARY_TOPICS else topics.get(None, ())
    return [*topics.get(topic, ()), *everything]


def deliver(
    page: Page,
    events: Sequence[tuple[Change, Event]],
    subscriptions: Sequence[Subscription],
    *,
    metrics: Metrics,
) -> None:
    """Put what each one wants into its queue; who has no room left falls behind.

    Args:
        page: what was read of the feed.
        events: those of its changes that somebody wants.
        subscriptions: those who have everything up to the page.
        metrics: count what is delivered.
    """
    topics, fallen = concerned(subscriptions, page), set[Subscription]()
    for change, event in events:
        for each in listening(topics, change.topic):
            if each in fallen or not each.wants_change(change):
                continue
            if each.offer(event):
                metrics.delivered += 1
                continue
            metrics.lagging += not each.behind
            each.fall_behind(page.before(change))
            fallen.add(each)
    for each in subscriptions:
        metrics.most_waiting = max(metrics.most_waiting, each.most)
        if each not in fallen:
            each.reach(page.cursor)


def resync(subscriptions: Sequence[Subscription], position: Cursor, *, metrics: Metrics) -> None:
    """Let subscriptions read their tables anew, and go on from a position."""
    for subscription in subscriptions:
        subscription.resync(position)
        metrics.resyncs += 1
