"""A proxy between this process and the server that counts bytes and can cut connections.

It runs on loopback in its own thread and passes TLS through unchanged.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

_CHUNK = 64 * 1024


class Wire:
    """Connections to one server.

    Attributes:
        url: the URL of the server through this proxy.
        bytes: number of bytes in both directions.
        cuts: number of connections that were cut.
    """

    def __init__(self, server: URL, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare; ``listen`` opens the port."""
        self.url, self.bytes, self.cuts = server, 0, 0
        self._server, self._loop = server, loop
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        """Accept connections."""
        listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = str(listener.sockets[0].getsockname()[1])
        query = {key: value for key, value in self._server.query.items() if key != "host"}
        # The host name stays, because the certificate is issued for it.
        host = None if _socket(self._server) else self._server.host
        self.url = self._server.set(
            host=host or "127.0.0.1", port=int(port), query={**query, "hostaddr": "127.0.0.1"}
        )
        return listener

    def cut(self) -> None:
        """Reset all connections, like a failing network."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        self.cuts += len(self._open) // 2
        for side in self._open:
            side.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # It is cancelled at the end; the loop would report the cancellation as an error.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            path = _socket(self._server)
            server_reader, server_writer = await (
                asyncio.open_unix_connection(path)
                if path
                else asyncio.open_connection(self._server.host, self._server.port or 5432)
            )
            sides = {writer, server_writer}
            self._open |= sides
            try:
                await asyncio.gather(
                    self._pump(reader, server_writer), self._pump(server_reader, writer)
                )
            finally:
                self._open -= sides
                server_writer.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_CHUNK):
                self.bytes += len(piece)
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def wired(server: URL) -> Iterator[Wire]:
    """A proxy to a server within a ``with`` block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    wire = Wire(server, loop)
    listener = asyncio.run_coroutine_threadsafe(wire.listen(), loop).result()
    try:
        yield wire
    finally:
        asyncio.run_coroutine_threadsafe(_end(listener), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(listener: asyncio.Server) -> None:
    listener.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _socket(server: URL) -> str | None:
    """The path of a server's Unix socket, None if it listens on a port."""
    folder = server.query.get("host") if not server.host else None
    port = server.query.get("port", server.port or 5432)
    return str(Path(str(folder)) / f".s.PGSQL.{port}") if folder else None
