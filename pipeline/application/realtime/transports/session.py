"""A session with the database that is opened when it is needed and again after it was lost."""

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
"""The few statements of a look come again and again; planned anew they cost the server thrice."""
_UNPREPARED = frozenset({"26000", "42P05"})
"""SQLSTATEs of a pooler that gives the next statement to another session, which knows none."""
_REPLAN = "0A000"
"""The SQLSTATE of a prepared statement whose table was changed."""

_SILENCE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A peer that vanished without a word is noticed within half a minute."""
_STATE = statement(APPLICATION).encode()

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(url: str, *, seconds: float, prepare: int | None = None) -> Connection:
    """Open a connection in autocommit.

    Args:
        url: the database, as libpq reads it.
        seconds: how long to wait.
        prepare: a statement is prepared after so many times, None never.

    Raises:
        SettingsError: the URL is not one of PostgreSQL, or has more than one reading.
        TargetError: nobody answers, or refuses.
    """
    if pooled(urls.postgres(url, name="The URL of the feed")):
        raise TargetError(
            "Supabase's transaction pooler cannot tell of changes",
            remedy="Use the direct or the session connection, port 5432",
        )
    try:
        async with asyncio.timeout(seconds):
            made = await psycopg.AsyncConnection.connect(
                address(url, APPLICATION, application_name="pipeline realtime", silence=_SILENCE),
                autocommit=True,
                prepare_threshold=prepare,
            )
            try:
                await made.execute(_STATE)
            except BaseException:
                await made.close()
                raise
    except TimeoutError:
        raise Transient(
            f"The feed: no answer within {seconds:g} s", remedy="It is tried again"
        ) from None
    except psycopg.Error as error:
        raise translated(error, url) from None
    made.adapters.register_loader("timestamptz", _Moment)
    set_json_loads(_loads, made)
    return made


class _Moment(TimestamptzLoader):
    """A moment; one that Python has no date for, such as infinity, stays text.

    One row that cannot be read would keep all later ones from being told.
    """

    def load(self, data: Buffer) -> Any:
        """The moment of PostgreSQL's text."""
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


def _loads(data: str | bytes) -> Any:
    """JSON; what is nested too deep for Python, or a number too long for it, stays text."""
    try:
        return json.loads(data)
    except (RecursionError, ValueError):
        return data.decode(errors="replace") if isinstance(data, bytes) else data


def translated(error: psycopg.Error, url: str) -> TargetError:
    """What the driver said, without the password, and with what to do about it."""
    made = TargetError.from_driver(error, where="the feed", url=url)
    if made.sqlstate in ("42P01", "3F000"):
        return TargetError(
            f"The target has no feed of changes ({made.problem})",
            remedy=message("Make it with ", REALTIME_ON),
        )
    return made


class UnusableValue(TargetError):
    """A value that the server refuses to take or send, or that Python cannot read."""


class Session:
    """One connection that many callers share, a statement at a time."""

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        """Connect later, when the first statement comes.

        Args:
            url: the database, as libpq reads it.
            seconds: how long to wait for a connection, and for three times that for an answer.
        """
        self._url, self._seconds = url, seconds
        self._prepare: int | None = _PREPARE
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def rows(
        self, query: sql.SQL | sql.Composed, values: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Rows of one statement.

        Raises:
            UnusableValue: one of the values or of the rows cannot be used.
            TargetError: it failed; a lost connection is opened anew by the next call.
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
                    f"The feed: no answer within {3 * self._seconds:g} s", remedy="Read it again"
                ) from None
            except psycopg.DataError as error:
                said = TargetError.from_driver(error, where="the feed", url=self._url)
                made = UnusableValue(said.problem, remedy="Correct the value")
                made.sqlstate = error.sqlstate
                raise made from None
            except psycopg.Error as error:
                if error.sqlstate in _UNPREPARED:
                    self._prepare = None
                stale = error.sqlstate in {*_UNPREPARED, _REPLAN}
                if stale or (self._connection is not None and self._connection.broken):
                    await self._drop()
                raise translated(error, self._url) from None
            except asyncio.CancelledError:
                # The statement may be under way still, and no other one could follow it.
                await self._drop()
                raise

    async def close(self) -> None:
        """End the connection, if there is one."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
