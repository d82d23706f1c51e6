"""Keeps a transport connected: it reconnects after each loss, with growing waits.

While the transport is unreachable the feed is polled, and the connection is tried again. Committed
changes are only delivered later; fleeting events are lost.
"""

import asyncio
from collections.abc import Callable

from pipeline.application.realtime.transports.backoff import Backoff
from pipeline.application.realtime.transports.transport import Connected, Lost, Signal, Transport
from pipeline.core.errors import PipelineError


class Link:
    """Keeps one transport connected.

    Attributes:
        connects: number of connections.
        failures: consecutive connections that failed, or were lost at once.
    """

    def __init__(
        self, transport: Transport, *, backoff: Backoff, failures: int = 3, settled: float = 5.0
    ) -> None:
        """Connect in ``run``.

        Args:
            transport: the transport.
            backoff: waits between attempts.
            failures: consecutive failures after which the feed is polled.
            settled: seconds after which a connection counts as successful.
        """
        self._transport, self._backoff = transport, backoff
        self._most, self._settled = failures, settled
        self.connects = self.failures = 0
        self.connected = False
        self._begun: float | None = None

    @property
    def polling(self) -> bool:
        """Whether the feed has to be polled, because the transport failed too often."""
        return not self.connected and self.failures >= self._most

    async def run(
        self, report: Callable[[Signal], None], *, on_error: Callable[[PipelineError], None]
    ) -> None:
        """Keep the transport connected, until cancelled.

        Args:
            report: gets the signals; it must not block.
            on_error: gets errors; the connection is tried again.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._begun = None
            try:
                await self._listen(report)
            except Exception as error:  # Any failure is followed by another attempt.
                on_error(foreseen(error, "Listening"))
            if self._begun is not None and loop.time() - self._begun >= self._settled:
                # A server that accepts connections and drops them at once has not recovered.
                self._backoff.reset()
                self.failures = 0
            self.failures += 1
            report(Lost())
            await asyncio.sleep(self._backoff.next())

    async def _listen(self, report: Callable[[Signal], None]) -> None:
        """Use one connection until it is lost."""
        try:
            await self._transport.connect()
            self._begun = asyncio.get_running_loop().time()
            self.connected, self.connects = True, self.connects + 1
            report(Connected())
            async for signal in self._transport.signals():
                report(signal)
        finally:
            self.connected = False
            await self._transport.disconnect()


def foreseen(error: Exception, what: str) -> PipelineError:
    """An error for people; an unforeseen one names its type."""
    if isinstance(error, PipelineError):
        return error
    unforeseen = PipelineError(
        f"{what} failed ({type(error).__name__})",
        remedy="The operation is retried; report this error",
    )
    unforeseen.__cause__ = error
    return unforeseen
