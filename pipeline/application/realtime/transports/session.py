"""A database session that opens on first use, and again after it was lost."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.json import set_json_loads

from pipeline.config.settings import pooled
from pipeline.core import urls
from pipeline.core.errors import TargetError, Transient
from pipeline.core.messages import REALTIME_ON, message
from pipeline.postgres.session import APPLICATION, address, statement

_PREPARE = 2
"""Executions after which a statement is prepared: planning each one triples the server's cost."""
_UNPREPARED = frozenset({"26000", "42P05"})
"""SQLSTATEs of a pooler that runs the next statement in a session without the prepared one."""
_REPLAN = "0A000"
"""The SQLSTATE of a prepared statement whose table was altered."""

_SILENCE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A silent loss of the peer is detected within half a minute."""
_STATE = statement(APPLICATION).encode()

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(url: str, *, seconds: float, prepare: int | None = None) -> Connection:
    """Open a connection in autocommit.

    Args:
        url: the database, in the format of libpq.
        seconds: timeout.
        prepare: executions after which a statement is prepared; None never prepares.

    Raises:
        SettingsError: the URL is not a PostgreSQL URL, or is ambiguous.
        TargetError: the server does not answer, or refuses.
    """
    if pooled(urls.postgres(url, name="The URL of the feed")):
        raise TargetError(
            "Supabase's transaction pooler cannot deliver notifications",
            remedy="Use the direct or the session connection, port 5432",
        )
    try:
        async with asyncio.timeout(seconds):
            connection = await psycopg.AsyncConnection.connect(
                address(url, APPLICATION, application_name="pipeline realtime", silence=_SILENCE),
                autocommit=True,
                prepare_threshold=prepare,
            )
            try:
                await connection.execute(_STATE)
            except BaseException:
                await connection.close()
                raise
    except TimeoutError:
        raise Transient(
            f"The feed: no answer within {seconds:g} s",
            remedy="The connection is retried automatically",
        ) from None
    except psycopg.Error as error:
        raise translated(error, url) from None
    connection.adapters.register_loader("timestamptz", _Timestamp)
    set_json_loads(_loads, connection)
    return connection


class _Timestamp(TimestamptzLoader):
    """A timestamp; one outside Python's range, such as infinity, stays text.

    Otherwise one unreadable row would block all later ones.
    """

    def load(self, data: Buffer) -> Any:
        """Parse PostgreSQL's text."""
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


def _loads(data: str | bytes) -> Any:
    """Parse JSON; text nested too deep or with too long a number for Python stays text."""
    try:
        return json.loads(data)
    except (RecursionError, ValueError):
        return data.decode(errors="replace") if isinstance(data, bytes) else data


def translated(error: psycopg.Error, url: str) -> TargetError:
    """An error of the driver, without the password, with a remedy."""
    translation = TargetError.from_driver(error, where="the feed", url=url)
    if translation.sqlstate in ("42P01", "3F000"):
        return TargetError(
            f"The target has no feed of changes ({translation.problem})",
            remedy=message("Create it with ", REALTIME_ON),
        )
    return translation


class UnusableValue(TargetError):
    """A value that the server refuses or cannot send, or that Python cannot read."""


class Session:
    """One connection shared by many callers, one statement at a time."""

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        """Connect with the first statement.

        Args:
            url: the database, in the format of libpq.
            seconds: timeout of the connection; a statement may take three times as long.
        """
        self._url, self._seconds = url, seconds
        self._prepare: int | None = _PREPARE
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def rows(
        self, query: sql.SQL | sql.Composed, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement.

        Raises:
            UnusableValue: a parameter or a value of a row cannot be used.
            TargetError: it failed; the next call opens a lost connection again.
        """
        async with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await connect(
                        self._url, seconds=self._seconds, prepare=self._prepare
                    )
                async with asyncio.timeout(3 * self._seconds):
                    cursor = await self._connection.execute(query, values)
                    return await cursor.fetchall() if cursor.description else []
            except TimeoutError:
                await self._drop()
                raise Transient(
                    f"The feed: no answer within {3 * self._seconds:g} s", remedy="Repeat the query"
                ) from None
            except psycopg.DataError as error:
                problem = TargetError.from_driver(error, where="the feed", url=self._url).problem
                unusable = UnusableValue(problem, remedy="Correct the value")
                unusable.sqlstate = error.sqlstate
                raise unusable from None
            except psycopg.Error as error:
                if error.sqlstate in _UNPREPARED:
                    self._prepare = None
                stale = error.sqlstate in {*_UNPREPARED, _REPLAN}
                if stale or (self._connection is not None and self._connection.broken):
                    await self._drop()
                raise translated(error, self._url) from None
            except asyncio.CancelledError:
                # The statement may still run, and no other one could follow it.
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection, if it is open."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
