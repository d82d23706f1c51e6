"""A limit on the subscriptions of a client: which are kept and which are evicted.

Chat has the highest priority, then presence, notes, progress and members. At the limit the
subscription of the lowest priority is evicted, and among equals the one without events for the
longest time. A new subscription of a lower priority than all others is refused.
"""

import asyncio
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pipeline.core.errors import PipelineError

PRIORITIES: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("message:new", "messages"), 5),
        **dict.fromkeys(("presence:changed", "typing:changed"), 4),
        **dict.fromkeys(("note:published", "notes", "note_blocks"), 3),
        **dict.fromkeys(("progress:updated", "progress"), 2),
        **dict.fromkeys(("member:changed", "space_members"), 1),
    }
)
"""Priorities of events and tables; all others have 0, the lowest."""


class Refused(PipelineError):
    """The limit is reached, and all other subscriptions have a higher priority."""


@dataclass(eq=False)
class ManagedSubscription:
    """A subscription of the manager.

    Attributes:
        name: the event or table.
        topic: the topic; None for all.
        end: ends it.
        on_evicted: is called with name and topic on eviction.
        owner: the object that it is for; None if it is ended explicitly.
        active: time of its last event, on the loop's clock.
    """

    name: str
    topic: str | None
    end: Callable[[], None]
    on_evicted: Callable[[str, str | None], None] | None = None
    owner: "weakref.ref[Any] | None" = None
    active: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def priority(self) -> int:
        """Its priority; a higher one is kept longer."""
        return PRIORITIES.get(self.name, 0)

    def touch(self) -> None:
        """Note the time of an event."""
        self.active = asyncio.get_running_loop().time()


class SubscriptionManager:
    """Limits the subscriptions of one client."""

    def __init__(
        self,
        *,
        max_subscriptions: int = 50,
        cleanup_interval: float = 30.0,
        stale_after: float | None = None,
    ) -> None:
        """Start without subscriptions.

        Args:
            max_subscriptions: the limit.
            cleanup_interval: seconds between two cleanups of subscriptions without an owner.
            stale_after: seconds without events after which one is evicted; None keeps it.
        """
        self.max_subscriptions, self.cleanup_interval = max_subscriptions, cleanup_interval
        self._stale_after = stale_after
        self._managed: set[ManagedSubscription] = set()

    def __len__(self) -> int:
        """The number of subscriptions."""
        return len(self._managed)

    def make_room(self, name: str, topic: str | None) -> None:
        """Evict a subscription if the limit is reached.

        Raises:
            Refused: all existing ones have a higher priority.
        """
        if len(self._managed) < self.max_subscriptions:
            return
        self.clean()
        if len(self._managed) < self.max_subscriptions:
            return
        least = min(self._managed, key=lambda each: (each.priority, each.active), default=None)
        if least is None or PRIORITIES.get(name, 0) < least.priority:
            raise Refused(
                f"The subscription to {name} of {topic or 'all topics'} was rejected: all"
                f" {len(self._managed)} existing subscriptions have a higher priority",
                remedy="End a subscription, or raise max_subscriptions",
            )
        self._evict(least)

    def add(self, managed: ManagedSubscription) -> None:
        """Add a subscription, after ``make_room``."""
        self._managed.add(managed)

    def remove(self, managed: ManagedSubscription) -> None:
        """Remove a subscription that has ended."""
        self._managed.discard(managed)

    def clean(self) -> int:
        """Evict subscriptions without an owner, and stale ones; returns their number."""
        now = asyncio.get_running_loop().time()
        silent_since = now - self._stale_after if self._stale_after is not None else float("-inf")
        to_evict = [
            each
            for each in self._managed
            if (each.owner is not None and each.owner() is None) or each.active < silent_since
        ]
        for each in to_evict:
            self._evict(each)
        return len(to_evict)

    async def keep_clean(self) -> None:
        """Clean periodically, until cancelled."""
        while True:
            await asyncio.sleep(self.cleanup_interval)
            self.clean()

    def _evict(self, managed: ManagedSubscription) -> None:
        self._managed.discard(managed)
        managed.end()
        if managed.on_evicted is not None:
            managed.on_evicted(managed.name, managed.topic)
