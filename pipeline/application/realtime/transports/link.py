"""A transport that is kept: connected again when it is lost, with longer and longer waits.

While it cannot be reached the feed is polled, and the transport tried further; nothing that was
committed is lost meanwhile, only told later. Fleeting events are.
"""

import asyncio
from collections.abc import Callable

from pipeline.application.realtime.transports.backoff import Backoff
from pipeline.application.realtime.transports.transport import Connected, Lost, Signal, Transport
from pipeline.core.errors import PipelineError


class Link:
    """Keeps one transport.

    Attributes:
        connects: how often it was connected.
        failures: how often in a row it could not be, or was lost at once.
    """

    def __init__(
        self, transport: Transport, *, backoff: Backoff, failures: int = 3, settled: float = 5.0
    ) -> None:
        """Connect when it runs.

        Args:
            transport: by which way.
            backoff: how long to wait between tries.
            failures: after so many in a row the feed is polled.
            settled: a connection that held so many seconds was a success.
        """
        self._transport, self._backoff = transport, backoff
        self._most, self._settled = failures, settled
        self.connects = self.failures = 0
        self.connected = False
        self._begun: float | None = None

    @property
    def polling(self) -> bool:
        """Whether the transport has failed so often that the feed is to be polled."""
        return not self.connected and self.failures >= self._most

    async def run(
        self, tell: Callable[[Signal], None], *, on_error: Callable[[PipelineError], None]
    ) -> None:
        """Keep it, until cancelled.

        Args:
            tell: takes what is told; it must not wait.
            on_error: takes what went wrong; it is tried again anyway.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._begun = None
            try:
                await self._listen(tell)
            except Exception as error:  # Whatever arrives and whoever fails, it is tried again.
                on_error(foreseen(error, "Listening"))
            if self._begun is not None and loop.time() - self._begun >= self._settled:
                # A server that takes connections and drops them at once has not recovered.
                self._backoff.reset()
                self.failures = 0
            self.failures += 1
            tell(Lost())
            await asyncio.sleep(self._backoff.next())

    async def _listen(self, tell: Callable[[Signal], None]) -> None:
        """Keep one connection until it is lost."""
        try:
            await self._transport.connect()
            self._begun = asyncio.get_running_loop().time()
            self.connected, self.connects = True, self.connects + 1
            tell(Connected())
            async for signal in self._transport.signals():
                tell(signal)
        finally:
            self.connected = False
            await self._transport.disconnect()


def foreseen(error: Exception, what: str) -> PipelineError:
    """An error as one for people; one that nobody foresaw says what it was."""
    if isinstance(error, PipelineError):
        return error
    made = PipelineError(
        f"{what} has failed ({type(error).__name__})", remedy="It is tried again; report this"
    )
    made.__cause__ = error
    return made
