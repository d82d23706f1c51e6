"""By which way a process learns that something was committed.

Whatever a transport tells is a hint: it may be missing, late, doubled or forged. What was committed
is read from the feed.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from pipeline.application.realtime.transports.events import Fleeting


@dataclass(frozen=True)
class Hint:
    """Something was committed.

    Attributes:
        topic: of which; None says that nobody knows.
        fleeting: it is an event that no table keeps, and not a change.
    """

    topic: str | None = None
    fleeting: bool = False


@dataclass(frozen=True)
class Unreadable:
    """Something arrived that cannot be read, whoever sent it."""


@dataclass(frozen=True)
class Connected:
    """From now on changes are told; earlier ones may have been missed."""


@dataclass(frozen=True)
class Lost:
    """Nothing is told until the next ``Connected``."""


Told = Hint | Fleeting | Unreadable
Signal = Told | Connected | Lost


class Transport(Protocol):
    """One connection at a time; who uses it connects again.

    Attributes:
        carries: whether it delivers fleeting events itself; otherwise they are read from the feed.
    """

    carries: bool

    async def connect(self) -> None:
        """Begin to listen.

        Raises:
            PipelineError: it cannot be reached now.
        """

    def signals(self) -> AsyncIterator[Told]:
        """What is told, until the connection ends.

        Raises:
            PipelineError: it was lost.
        """

    def watch(self, topics: Collection[str]) -> None:
        """From now on these topics are wanted, and no others."""

    async def send(self, event: Fleeting) -> None:
        """Tell everybody of an event that nothing keeps.

        Raises:
            PipelineError: it could not be sent.
        """

    async def disconnect(self) -> None:
        """End the connection, if there is one; ``connect`` may follow."""

    async def close(self) -> None:
        """Give back everything."""
