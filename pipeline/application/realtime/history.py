"""The last changes of each topic, for replay to new subscriptions."""

from collections import OrderedDict, deque
from collections.abc import Callable

from pipeline.application.realtime.transports.events import Changed


class History:
    """The last ``each`` changes of the ``topics`` topics that changed most recently."""

    def __init__(self, *, each: int = 50, topics: int = 1000) -> None:
        """Start empty."""
        self._each, self._most_topics = each, topics
        self._topics: OrderedDict[str, deque[Changed]] = OrderedDict()

    def add(self, event: Changed) -> None:
        """Add a change."""
        changes = self._topics.setdefault(event.topic, deque(maxlen=self._each))
        changes.append(event)
        self._topics.move_to_end(event.topic)
        if len(self._topics) > self._most_topics:
            self._topics.popitem(last=False)

    def last(
        self, number: int, topic: str | None, wanted: Callable[[Changed], bool]
    ) -> list[Changed]:
        """The last wanted changes of a topic, or of all topics if None, oldest first."""
        topics = self._topics.values() if topic is None else [self._topics.get(topic, deque())]
        found = (event for changes in topics for event in changes if wanted(event))
        return sorted(found, key=lambda event: event.version)[-number:] if number > 0 else []

    def clear(self) -> None:
        """Remove all changes; after missed changes they are out of date."""
        self._topics.clear()
