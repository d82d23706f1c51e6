"""The interface of transports, which report that changes were committed.

A report is only a hint: it may be missing, late, duplicated or forged. Changes are read from the
feed.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from pipeline.application.realtime.transports.events import Fleeting


@dataclass(frozen=True)
class Hint:
    """The feed may have new rows.

    Attributes:
        topic: their topic; None if it is unknown.
        fleeting: they are fleeting events, not changes.
    """

    topic: str | None = None
    fleeting: bool = False


@dataclass(frozen=True)
class Unreadable:
    """An unreadable message arrived."""


@dataclass(frozen=True)
class Connected:
    """Changes are reported from now on; earlier ones may have been missed."""


@dataclass(frozen=True)
class Lost:
    """Nothing is reported until the next ``Connected``."""


Received = Hint | Fleeting | Unreadable
Signal = Received | Connected | Lost


class Transport(Protocol):
    """One connection at a time; its user reconnects.

    Attributes:
        carries: whether it delivers fleeting events; otherwise they are read from the feed.
    """

    carries: bool

    async def connect(self) -> None:
        """Start to listen.

        Raises:
            PipelineError: the server is unreachable.
        """

    def signals(self) -> AsyncIterator[Received]:
        """Hints and events, until the connection ends.

        Raises:
            PipelineError: the connection was lost.
        """

    def watch(self, topics: Collection[str]) -> None:
        """Replace the set of watched topics."""

    async def send(self, event: Fleeting) -> None:
        """Send a fleeting event to all subscribers of its topic.

        Raises:
            PipelineError: it could not be sent.
        """

    async def disconnect(self) -> None:
        """Close the connection, if it is open; ``connect`` may follow."""

    async def close(self) -> None:
        """Close all connections."""
