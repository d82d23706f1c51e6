"""Deliver alerts to all receivers at the same time, each delivery within one deadline.

The deadline covers everything: name lookup, connection, encryption, and an answer that arrives byte
by byte. When it is over, the connection is ended, so the thread of the delivery ends as well. A
thread that is still looking up a name is left behind; it can no longer deliver anything.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from pipeline.core.errors import PipelineError
from pipeline.orchestration.alerts.message import Alert

SECONDS = 20.0
"""Seconds that a whole delivery may take."""
_GRACE = 1.0
"""Seconds for a delivery whose connection was ended to report so."""


class NotDelivered(PipelineError):
    """A receiver did not accept an alert; a later attempt may succeed."""


class Deadline:
    """Ends the watched connection when the time is over."""

    def __init__(self, seconds: float) -> None:
        """Start with the block of ``with``."""
        self.seconds = seconds
        self.over = False
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Start the time."""
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the time."""
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        """Watch a connection instead of an earlier one.

        Raises:
            TimeoutError: the time is over already.
        """
        with self._lock:
            if self.over:
                raise TimeoutError
            self._connection = connection

    def _end(self) -> None:
        with self._lock:
            self.over = True
            if self._connection is not None:
                # Not SSLSocket.shutdown, which waits for nobody but changes the reader's state.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


class Receiver(Protocol):
    """A receiver of alerts."""

    @property
    def name(self) -> str:
        """Its name in stored cursors."""

    @property
    def shown(self) -> str:
        """Its name for people, without a secret."""

    @property
    def seconds(self) -> float:
        """Seconds that a whole delivery may take."""

    def send(self, alert: Alert) -> None:
        """Send an alert.

        Raises:
            NotDelivered: the receiver did not accept it in time.
        """


@dataclass(frozen=True)
class Delivery:
    """An attempt to deliver an alert; ``error`` is None if it was accepted."""

    receiver: Receiver
    alert: Alert
    error: Exception | None


def deliver(
    waiting: Sequence[tuple[Receiver, Sequence[Alert]]], *, seconds: float = 0.0
) -> Iterator[Delivery]:
    """Send alerts to all receivers at once; yields attempts as they end.

    Each receiver gets its alerts in order, until one fails or the time for new ones is over.

    Args:
        seconds: how long further alerts are begun; the first one of each receiver always is.
    """
    ended: queue.SimpleQueue[Delivery | Receiver] = queue.SimpleQueue()
    until = time.monotonic() + seconds
    open_ = {receiver.name: list(alerts) for receiver, alerts in waiting if alerts}
    for receiver, alerts in waiting:
        if alerts:
            arguments = (receiver, list(alerts), until, ended)
            threading.Thread(target=_send, args=arguments, daemon=True).start()
    longest = max((receiver.seconds for receiver, _ in waiting), default=0.0)
    end = until + longest + _GRACE
    while open_:
        try:
            found = ended.get(timeout=max(end - time.monotonic(), 0.0))
        except queue.Empty:
            break
        if not isinstance(found, Delivery):
            del open_[found.name]
            continue
        if found.error is not None and not isinstance(found.error, NotDelivered):
            raise found.error
        open_[found.receiver.name].remove(found.alert)
        yield found
    for receiver, _ in waiting:
        if receiver.name in open_:
            why = f"could not be reached within {receiver.seconds:,.0f} s"
            error = NotDelivered(
                f"T{receiver.shown[1:]} {why}", remedy="Check its name and the network"
            )
            yield Delivery(receiver, open_[receiver.name][0], error)


def _send(
    receiver: Receiver,
    alerts: Sequence[Alert],
    until: float,
    ended: "queue.SimpleQueue[Delivery | Receiver]",
) -> None:
    for number, alert in enumerate(alerts):
        if number and time.monotonic() > until:
            break
        try:
            receiver.send(alert)
        except Exception as error:
            ended.put(Delivery(receiver, alert, error))
            break
        ended.put(Delivery(receiver, alert, None))
    ended.put(receiver)
