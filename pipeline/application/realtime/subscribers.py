"""The subscriptions of a hub, by topic."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.application.realtime.cursor import Cursor
from pipeline.application.realtime.limits import Metrics
from pipeline.application.realtime.reader import Change, Page
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Event
from pipeline.declared.feed import CANARY_TOPICS


class Subscribers:
    """All subscriptions of a hub, by topic; None means all topics."""

    def __init__(self, watch: Callable[[Sequence[str]], None]) -> None:
        """Start without subscriptions.

        Args:
            watch: is called with all named topics when they change.
        """
        self._watch = watch
        self._by_topic: dict[str | None, set[Subscription]] = {}

    def __iter__(self) -> Iterator[Subscription]:
        """A copy of all subscriptions, because they may change during the iteration."""
        return iter([each for some in self._by_topic.values() for each in some])

    def add(self, subscription: Subscription) -> None:
        """Add a subscription."""
        same_topic = self._by_topic.setdefault(subscription.topic, set())
        same_topic.add(subscription)
        if len(same_topic) == 1:
            self._changed()

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription."""
        same_topic = self._by_topic.get(subscription.topic, set())
        same_topic.discard(subscription)
        if not same_topic and self._by_topic.pop(subscription.topic, None) is not None:
            self._changed()

    def _changed(self) -> None:
        self._watch([topic for topic in self._by_topic if topic is not None])

    def of(self, topic: str) -> list[Subscription]:
        """The subscriptions to a topic."""
        return listening(self._by_topic, topic)

    @property
    def topics(self) -> Sequence[str] | None:
        """The subscribed topics; None for all topics."""
        if None in self._by_topic:
            return None
        return [topic for topic in self._by_topic if topic is not None]


Topics = dict[str | None, list[Subscription]]
"""Subscriptions by topic."""


def concerned(subscriptions: Sequence[Subscription], page: Page) -> Topics:
    """The subscriptions to topics of a page's changes; often a few of thousands."""
    topics = {None, *(change.topic for change in page.changes)}
    by_topic: Topics = {}
    for each in subscriptions:
        if each.topic in topics and not each.closed:
            by_topic.setdefault(each.topic, []).append(each)
    return by_topic


def listening(
    topics: Topics | dict[str | None, set[Subscription]], topic: str
) -> list[Subscription]:
    """The subscriptions to a topic; those to all topics do not get canaries."""
    everything = () if topic in CANARY_TOPICS else topics.get(None, ())
    return [*topics.get(topic, ()), *everything]


def deliver(
    page: Page,
    events: Sequence[tuple[Change, Event]],
    subscriptions: Sequence[Subscription],
    *,
    metrics: Metrics,
) -> None:
    """Put events into the queues of subscriptions; one with a full queue falls behind.

    Args:
        page: a page of the feed.
        events: its changes that any subscription wants.
        subscriptions: those with everything before the page.
        metrics: counts the delivered events.
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
    """Tell subscriptions to read their tables again, and continue at a position."""
    for subscription in subscriptions:
        subscription.resync(position)
        metrics.resyncs += 1
