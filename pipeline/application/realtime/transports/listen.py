"""The transport of PostgreSQL itself: LISTEN and NOTIFY, on a connection of its own.

Any role that can connect can notify. So a notification only makes the hub read the feed with its
own privileges, including fleeting events; the content of a notification is not used.
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
from pipeline.application.realtime.transports.transport import Hint, Received, Unreadable
from pipeline.core.errors import Transient
from pipeline.declared.feed import CHANNEL, FLEETING_HINT

_LISTEN = sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL))
_SEND = sql.SQL("SELECT feed.send(%(topic)s, %(event)s, %(payload)s::jsonb)")


class Listen:
    """Hints through NOTIFY; fleeting events through ``feed.send``."""

    carries = False

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        """Connect later.

        Args:
            url: the database, in the format of libpq; a direct or session connection.
            seconds: timeout of the connection.
        """
        self._url, self._seconds = url, seconds
        self._connection: Connection | None = None
        self._sender = Session(url, seconds=seconds)

    async def connect(self) -> None:
        """Open the connection and LISTEN on it."""
        self._connection = await connect(self._url, seconds=self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                await self._connection.execute(_LISTEN)
        except TimeoutError:
            raise Transient(
                f"The feed: no answer to LISTEN within {self._seconds:g} s",
                remedy="The connection is retried; the feed is polled meanwhile",
            ) from None
        except psycopg.Error as error:
            raise translated(error, self._url) from None

    async def signals(self) -> AsyncIterator[Received]:
        """Hints from notifications, until the connection ends."""
        connection = self._connection
        while connection is not None:
            try:
                async for notify in connection.notifies():
                    yield Hint(fleeting=notify.payload == FLEETING_HINT)
                break
            except UnicodeDecodeError:
                # Notifications of both kinds that came with it are lost.
                yield Unreadable()
                yield Hint()
                yield Hint(fleeting=True)
            except psycopg.Error as error:
                raise translated(error, self._url) from None
        raise Transient(
            "The feed: the connection was closed", remedy="The connection is reopened automatically"
        )

    def watch(self, topics: Collection[str]) -> None:
        """Do nothing: one channel serves all topics."""

    async def send(self, event: Fleeting) -> None:
        """Send it through the database, also to this process."""
        payload = json.dumps(sent(event))
        parameters = {"topic": event.topic, "event": name_of(event), "payload": payload}
        await self._sender.rows(_SEND, parameters)

    async def disconnect(self) -> None:
        """Close the listening connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def close(self) -> None:
        """Close both connections."""
        await self.disconnect()
        await self._sender.close()
