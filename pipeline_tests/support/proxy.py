"""A network between the pipeline and the server that a test can slow down and break."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy.engine import URL

Fault = Literal["reset", "truncate", "lose the answer", "vanish"]
_CHUNK = 16 * 1024
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


@dataclass
class Proxy:
    """Every connection through here is broken once what it asks has the marker in it.

    Attributes:
        url: the server, by way of the proxy.
        fault: ``reset`` closes before the request is sent on, ``truncate`` after half of it,
            ``lose the answer`` when the server has answered it, ``vanish`` only for the client: the
            server does the request and waits for the next one.
        marker: what a request must hold; None lets everything pass.
        skip: so many requests with the marker pass before.
        seconds: how long every piece waits.
        broken: how many connections were broken.
        later: plans that follow, one after the other, as (fault, marker, skip).
    """

    url: URL
    fault: Fault = "reset"
    marker: bytes | None = None
    skip: int = 0
    seconds: float = 0.0
    broken: int = 0
    later: list[tuple[Fault, bytes, int]] = field(default_factory=list)
    left_open: list[socket.socket] = field(default_factory=list)
    _server: str = ""
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, fault: Fault, marker: bytes, *, skip: int = 0) -> None:
        """Break the next connection that asks for this."""
        self.fault, self.marker, self.skip, self._seen, self.broken = fault, marker, skip, 0, 0

    def plan_all(self, *plans: tuple[Fault, bytes, int]) -> None:
        """Break connections one after the other."""
        first, *self.later = plans
        self.plan(first[0], first[1], skip=first[2])

    def _due(self, request: bytes) -> Fault | None:
        with self._lock:
            if self.marker is None or self.marker not in request:
                return None
            self._seen += 1
            if self._seen <= self.skip:
                return None
            self.broken += 1
            fault, self.marker = self.fault, None
            if self.later:
                (self.fault, self.marker, self.skip), self._seen = self.later.pop(0), 0
            return fault

    def serve(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._server)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for side in ready:
                    piece = side.recv(_CHUNK)
                    if not piece:
                        return
                    time.sleep(self.seconds)
                    if side is server:
                        client.sendall(piece)
                    elif (fault := self._due(piece)) is not None:
                        self._break(fault, client, server, piece)
                        return
                    else:
                        server.sendall(piece)

    def _break(
        self, fault: Fault, client: socket.socket, server: socket.socket, request: bytes
    ) -> None:
        if fault == "truncate":
            server.sendall(request[: len(request) // 2])
        elif fault == "vanish":
            server.sendall(request)
            self.left_open.append(server.dup())
        elif fault == "lose the answer":
            server.sendall(request)
            # Ready for the next request: the server is done with this one.
            answer = b""
            while not answer.endswith((b"Z\0\0\0\x05I", b"Z\0\0\0\x05T", b"Z\0\0\0\x05E")):
                got = server.recv(_CHUNK)
                if not got:
                    break
                answer += got
                if answer[:1] == b"G":
                    break
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)


@contextlib.contextmanager
def proxied(database: URL) -> Iterator[Proxy]:
    """A proxy on loopback before a server that listens on a Unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        url = URL.create(
            "postgresql", database.username, host="127.0.0.1", port=port, database=database.database
        )
        made = Proxy(url, _server=f"{database.query['host']}/.s.PGSQL.5432")
        threading.Thread(target=made.serve, args=(listener,), daemon=True).start()
        yield made
        for each in made.left_open:
            each.close()
        # A blocked accept does not notice that its socket is closed.
        listener.shutdown(socket.SHUT_RDWR)
