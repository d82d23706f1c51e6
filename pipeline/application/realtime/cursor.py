"""Positions in the feed.

Transactions do not commit in the order in which they start, so neither ids nor dates identify the
changes that have been read. A snapshot of PostgreSQL does: it lists all transactions in progress.
The changes between two snapshots were committed between them, whatever their ids, and are read
exactly once.
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
    """The changes between a cursor's snapshot and a later one, read in pages by id.

    Attributes:
        until: the later snapshot.
        after: changes up to this id have been read.
        last: the largest id in the window.
    """

    until: str
    after: int
    last: int


@dataclass(frozen=True)
class Cursor:
    """A position: everything visible in ``since`` has been read, and part of the window after it.

    Attributes:
        epoch: the epoch of the feed.
        since: a ``pg_snapshot``, as text.
        window: the window in progress.
    """

    epoch: str
    since: str
    window: Window | None = None

    @property
    def next_transaction(self) -> str:
        """The first transaction from which on all are unread."""
        return self.since.split(":")[1]

    @property
    def unfinished(self) -> list[str]:
        """Earlier transactions that are unread, because they were in progress."""
        return [each for each in self.since.split(":")[2].split(",") if each]

    def __str__(self) -> str:
        """JSON for ``parse``, to save the position across restarts."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a saved cursor.

        Raises:
            PipelineError: the text is not a cursor.
        """
        try:
            given = json.loads(text)
            window = given.pop("window", None)
            cursor = cls(**given, window=None if window is None else Window(**window))
            _require_valid(cursor)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise PipelineError(
                "The saved text is not a cursor of the feed",
                remedy="Subscribe without a cursor, and read the tables again",
            ) from None
        return cursor


def _require_valid(cursor: Cursor) -> None:
    """Raise ValueError for values that PostgreSQL would refuse, or that would block the hub."""
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
        in_progress = [int(each) for each in between.split(",") if each]
        bounds = [int(first), *in_progress, int(end)]
        if bounds != sorted(bounds) or bounds[-1] > _LARGEST or int(end) in in_progress:
            raise ValueError
