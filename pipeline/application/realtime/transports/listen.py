"""The database's own way: LISTEN and NOTIFY, on a connection that does nothing else.

Any role that can connect may notify. So a notification only makes the hub look at the feed, which
it reads under its own rights, fleeting events included; nothing else of it is used.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection

import psycopg
from psycopg import sql

from pipeline.application.realtime.transports.events import Fleeting, name_of, sent
from pipeline.application.realtime.transports.session import (
    Connection,
    Session,
    connect,
    translated,
)
from pipeline.application.realtime.transports.transport import Hint, Told, Unreadable
from pipeline.core.errors import Transient
from pipeline.declared.feed import CHANNEL, FLEETING_HINT

_LISTEN = sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL))
_SEND = sql.SQL("SELECT feed.send(%(topic)s, %(event)s, %(payload)s::jsonb)")


class Listen:
    """Hints by NOTIFY; fleeting events by ``feed.send``."""

    carries = False

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        """Connect later.

        Args:
            url: the database, as libpq reads it; a direct or session connection.
            seconds: how long to wait for a connection.
        """
        self._url, self._seconds = url, seconds
        self._connection: Connection | None = None
        self._sender = Session(url, seconds=seconds)

    async def connect(self) -> None:
        """Open the connection and listen on it."""
        self._connection = await connect(self._url, seconds=self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                await self._connection.execute(_LISTEN)
        except TimeoutError:
            raise Transient(
                f"The feed: no answer to LISTEN within {self._seconds:g} s",
                remedy="It is tried again, and the feed is looked at meanwhile",
            ) from None
        except psycopg.Error as error:
            raise translated(error, self._url) from None

    async def signals(self) -> AsyncIterator[Told]:
        """What is notified, until the connection ends."""
        connection = self._connection
        while connection is not None:
            try:
                async for notify in connection.notifies():
                    yield Hint(fleeting=notify.payload == FLEETING_HINT)
                break
            except UnicodeDecodeError:
                # Those that came with it are lost, of either kind.
                yield Unreadable()
                yield Hint()
                yield Hint(fleeting=True)
            except psycopg.Error as error:
                raise translated(error, self._url) from None
        raise Transient("The feed: the connection has ended", remedy="It is opened again")

    def watch(self, topics: Collection[str]) -> None:
        """Nothing to do: one channel tells of all topics."""

    async def send(self, event: Fleeting) -> None:
        """Send it through the database, to this process as well."""
        payload = json.dumps(sent(event))
        asked = {"topic": event.topic, "event": name_of(event), "payload": payload}
        await self._sender.rows(_SEND, asked)

    async def disconnect(self) -> None:
        """End the connection that listens."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def close(self) -> None:
        """End both connections."""
        await self.disconnect()
        await self._sender.close()
