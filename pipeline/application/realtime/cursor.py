"""Where somebody stands in the feed.

Transactions commit in another order than they began, so no number and no date says what has been
read. A snapshot of PostgreSQL does: it knows every transaction that had not ended. What lies
between two snapshots was committed between them, whatever its id; it is read exactly once.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Self

from pipeline.core.errors import PipelineError

_SNAPSHOT = re.compile(r"[1-9][0-9]*:[1-9][0-9]*:(?:[1-9][0-9]*(?:,[1-9][0-9]*)*)?")
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Window:
    """What lies between a cursor's snapshot and a later one, read in pages by id.

    Attributes:
        until: the later snapshot.
        after: changes up to this id have been read.
        last: the largest id in it.
    """

    until: str
    after: int
    last: int


@dataclass(frozen=True)
class Cursor:
    """Everything that ``since`` sees has been read; of the window after it, a part may have been.

    Attributes:
        epoch: the feed that it belongs to.
        since: a ``pg_snapshot``, as text.
        window: the one that is being read.
    """

    epoch: str
    since: str
    window: Window | None = None

    @property
    def next_transaction(self) -> str:
        """Transactions from this one on are unread."""
        return self.since.split(":")[1]

    @property
    def unfinished(self) -> list[str]:
        """Earlier transactions that are unread, because they had not ended."""
        return [each for each in self.since.split(":")[2].split(",") if each]

    def __str__(self) -> str:
        """As text that ``parse`` reads, for who keeps it across restarts."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A cursor that was kept.

        Raises:
            PipelineError: it is none.
        """
        try:
            given = json.loads(text)
            kept = given.pop("window", None)
            made = cls(**given, window=None if kept is None else Window(**kept))
            _require(made)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise PipelineError(
                "What was kept is no cursor of the feed",
                remedy="Subscribe without one, and read the tables anew",
            ) from None
        return made


def _require(cursor: Cursor) -> None:
    """Raise ValueError for what PostgreSQL would not take, and what would hold up the hub."""
    window = cursor.window
    ids = () if window is None else (window.after, window.last)
    if not isinstance(cursor.epoch, str) or any(type(each) is not int for each in ids):
        raise ValueError
    if any(not 0 <= each <= _LARGEST for each in ids):
        raise ValueError
    for snapshot in (cursor.since, *(() if window is None else (window.until,))):
        if not isinstance(snapshot, str) or not _SNAPSHOT.fullmatch(snapshot):
            raise ValueError
        first, end, between = snapshot.split(":")
        open_then = [int(each) for each in between.split(",") if each]
        bounds = [int(first), *open_then, int(end)]
        if bounds != sorted(bounds) or bounds[-1] > _LARGEST or int(end) in open_then:
            raise ValueError
