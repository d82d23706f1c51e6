"""Access tokens of Supabase Auth: renewed ahead of their expiry, never shown."""

import base64
import json
import math
import time
from collections.abc import Awaitable, Callable

from pipeline.core.errors import Transient

Ask = Callable[[], Awaitable[str]]

_UNKNOWN = 300.0
"""Seconds for which a token without an expiry is used."""


def expiry(token: str) -> float | None:
    """The expiry of a JWT, in seconds since 1970; None if it has none.

    The server verifies its signature.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        until = float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return until if math.isfinite(until) else None


class Tokens:
    """Gets tokens, and knows when the next one is due."""

    def __init__(self, ask: Ask, *, ahead: float) -> None:
        """Ask for no token yet.

        Args:
            ask: returns a new token.
            ahead: seconds before its expiry at which a token is renewed.
        """
        self._ask, self._ahead = ask, ahead
        self._until = 0.0

    @property
    def due_in(self) -> float:
        """Seconds until the next token is due."""
        return max(0.0, self._until - time.time())

    def refuse(self) -> None:
        """Note that the server refused the token, so the next one is due."""
        self._until = 0.0

    async def new(self) -> str:
        """Ask for a token.

        Raises:
            Transient: there was none; the message does not contain the answer.
        """
        try:
            token = await self._ask()
        except Exception as error:  # The application's error may contain a token.
            raise Transient(
                f"The token for Supabase Realtime could not be obtained ({type(error).__name__})",
                remedy="The token is requested again automatically",
            ) from None
        now, until = time.time(), expiry(token)
        # A short-lived token is used for at least half of its time.
        left = _UNKNOWN if until is None else until - now
        self._until = now + max(left - self._ahead, left / 2, 1.0)
        return token
