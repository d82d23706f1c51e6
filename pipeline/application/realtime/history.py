"""The last events of each topic, for who comes later; bounded in both directions."""

from collections import OrderedDict, deque
from collections.abc import Callable

from pipeline.application.realtime.transports.events import Changed


class History:
    """The last ``each`` changes of at most ``topics`` topics; the one least recently told goes."""

    def __init__(self, *, each: int = 50, topics: int = 1000) -> None:
        """Begin with nothing."""
        self._each, self._most = each, topics
        self._topics: OrderedDict[str, deque[Changed]] = OrderedDict()

    def add(self, event: Changed) -> None:
        """Remember a change."""
        told = self._topics.setdefault(event.topic, deque(maxlen=self._each))
        told.append(event)
        self._topics.move_to_end(event.topic)
        if len(self._topics) > self._most:
            self._topics.popitem(last=False)

    def last(
        self, number: int, topic: str | None, wanted: Callable[[Changed], bool]
    ) -> list[Changed]:
        """The last wanted changes of a topic, of all of them if it is None, oldest first."""
        topics = self._topics.values() if topic is None else [self._topics.get(topic, deque())]
        found = (event for told in topics for event in told if wanted(event))
        return sorted(found, key=lambda event: event.version)[-number:] if number > 0 else []

    def clear(self) -> None:
        """Forget everything: it may not be how it was."""
        self._topics.clear()
