"""Which subscriptions of a client are kept when there are too many, or nobody owns them any more.

Chat matters most, then presence, notes, progress and members. When there is no room for another
one, the least important goes, of several the one that heard nothing for the longest time; a new one
that is the least important itself is refused.
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
"""How much an event or a table matters; what is not named here matters least."""


class Refused(PipelineError):
    """There are too many subscriptions that matter more."""


@dataclass(eq=False)
class Kept:
    """A subscription that is kept.

    Attributes:
        name: the event or table.
        topic: whose.
        end: ends it.
        on_evicted: told when it had to go.
        owner: who it is for; None for somebody who ends it themselves.
        active: when it heard something, on the loop's clock.
    """

    name: str
    topic: str | None
    end: Callable[[], None]
    on_evicted: Callable[[str, str | None], None] | None = None
    owner: "weakref.ref[Any] | None" = None
    active: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def priority(self) -> int:
        """How much it matters."""
        return PRIORITIES.get(self.name, 0)

    def touch(self) -> None:
        """It heard something."""
        self.active = asyncio.get_running_loop().time()


class SubscriptionManager:
    """Bounds the subscriptions of one client."""

    def __init__(
        self,
        *,
        max_subscriptions: int = 50,
        cleanup_interval: float = 30.0,
        stale_after: float | None = None,
    ) -> None:
        """Keep none yet.

        Args:
            max_subscriptions: how many at most.
            cleanup_interval: seconds between two looks for those that nobody owns any more.
            stale_after: one that heard nothing for so many seconds goes, too; None keeps it.
        """
        self.max_subscriptions, self.cleanup_interval = max_subscriptions, cleanup_interval
        self._stale_after = stale_after
        self._kept: set[Kept] = set()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def make_room(self, name: str, topic: str | None) -> None:
        """Evict one if another one would be too many.

        Raises:
            Refused: those that are kept all matter more.
        """
        if len(self._kept) < self.max_subscriptions:
            return
        self.clean()
        if len(self._kept) < self.max_subscriptions:
            return
        least = min(self._kept, key=lambda kept: (kept.priority, kept.active), default=None)
        if least is None or PRIORITIES.get(name, 0) < least.priority:
            raise Refused(
                f"{name} of {topic or 'all topics'} is refused: {len(self._kept)} subscriptions"
                " are kept, and all of them matter more",
                remedy="End one of them, or raise max_subscriptions",
            )
        self._evict(least)

    def add(self, kept: Kept) -> None:
        """Keep one, for which there is room."""
        self._kept.add(kept)

    def remove(self, kept: Kept) -> None:
        """Keep it no more."""
        self._kept.discard(kept)

    def clean(self) -> int:
        """Evict what nobody owns any more, and what has been silent for too long.

        Returns:
            How many went.
        """
        now = asyncio.get_running_loop().time()
        silent_since = now - self._stale_after if self._stale_after is not None else float("-inf")
        gone = [
            kept
            for kept in self._kept
            if (kept.owner is not None and kept.owner() is None) or kept.active < silent_since
        ]
        for kept in gone:
            self._evict(kept)
        return len(gone)

    async def keep_clean(self) -> None:
        """Clean from time to time, until cancelled."""
        while True:
            await asyncio.sleep(self.cleanup_interval)
            self.clean()

    def _evict(self, kept: Kept) -> None:
        self._kept.discard(kept)
        kept.end()
        if kept.on_evicted is not None:
            kept.on_evicted(kept.name, kept.topic)
