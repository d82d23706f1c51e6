"""When a hub reads the feed, and how long it pauses between reads.

Hints decide when to read, never what is delivered, because any client that can connect can forge
them. Hints that arrive during a read cause one more read after a pause; the pause grows while reads
find nothing. Without hints the feed is read every few seconds, and after every connection.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from pipeline.application.realtime.limits import Limits


@dataclass(frozen=True)
class Due:
    """What the next read is for.

    Attributes:
        changes: whether changes have to be read.
        fleeting: whether fleeting events have to be read.
        changes_hinted: whether a hint announced changes.
        hinted: whether any hint arrived.
    """

    changes: bool
    fleeting: bool
    changes_hinted: bool
    hinted: bool


class ReadSchedule:
    """The reasons to read the feed since the last read."""

    def __init__(self, limits: Limits) -> None:
        """Start without a reason."""
        self._limits = limits
        self._wake = asyncio.Event()
        self._everything = self._changes_hinted = self._fleeting_hinted = False
        self._last_read, self._pause = 0.0, limits.burst

    def hint(self, *, fleeting: bool) -> None:
        """Read soon: a hint announced fleeting events, or changes."""
        self._fleeting_hinted = self._fleeting_hinted or fleeting
        self._changes_hinted = self._changes_hinted or not fleeting
        self._wake.set()

    def request(self) -> None:
        """Read everything soon."""
        self._everything = True
        self._wake.set()

    def wake(self) -> None:
        """Check again what is due: a subscriber caught up, or the transport was lost."""
        self._wake.set()

    def mark_read(self) -> None:
        """Count the silence from now on."""
        self._last_read = asyncio.get_running_loop().time()

    async def next(self, *, polling: bool) -> Due:
        """Wait for a hint, for ``wake``, or for the end of the silence."""
        until = self._last_read + (self._limits.poll if polling else self._limits.silence)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        # Also when subscribers that fell behind wake it all the time.
        self._everything = self._everything or asyncio.get_running_loop().time() >= until
        self._wake.clear()
        due = Due(
            changes=self._changes_hinted or self._everything,
            fleeting=self._fleeting_hinted or self._everything,
            changes_hinted=self._changes_hinted,
            hinted=self._changes_hinted or self._fleeting_hinted,
        )
        self._changes_hinted = self._everything = self._fleeting_hinted = False
        return due

    async def pause(self, due: Due, *, found: int) -> None:
        """Pause after a read: many transactions of a burst end meanwhile."""
        # Hints without any change are false, so the next one waits longer.
        longer = min(2 * self._pause, self._limits.calm)
        self._pause = longer if due.hinted and not found else self._limits.burst
        await asyncio.sleep(self._pause)
