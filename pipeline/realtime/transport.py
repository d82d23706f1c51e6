"""By which way a process learns that something was committed.

Whatever a transport tells is a hint: it may be missing, late or doubled. What was committed is read
from the feed.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol

from pipeline.realtime.events import Fleeting


@dataclass(frozen=True)
class Hint:
    """Something of this topic was committed; None says that nobody knows of which."""

    topic: str | None


@dataclass(frozen=True)
class Connected:
    """From now on changes are told; earlier ones may have been missed."""


@dataclass(frozen=True)
class Lost:
    """Nothing is told until the next ``Connected``."""


Signal = Hint | Fleeting | Connected | Lost


class Transport(Protocol):
    """One connection at a time; who uses it connects again."""

    async def connect(self) -> None:
        """Begin to listen.

        Raises:
            PipelineError: it cannot be reached now.
        """

    def signals(self) -> AsyncIterator[Hint | Fleeting]:
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
