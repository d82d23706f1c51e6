"""Tokens of Supabase Auth, asked for ahead of their expiry and shown nowhere."""

import base64
import json
import math
import time
from collections.abc import Awaitable, Callable

from pipeline.core.errors import Transient

Ask = Callable[[], Awaitable[str]]

_UNKNOWN = 300.0
"""So many seconds a token is used that does not say how long it is good."""


def expiry(token: str) -> float | None:
    """When a JWT expires, in seconds since 1970; None if it does not say so.

    Its signature is the server's to verify.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        until = float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return until if math.isfinite(until) else None


class Tokens:
    """Gives a token that is good for some time to come."""

    def __init__(self, ask: Ask, *, ahead: float) -> None:
        """Ask later.

        Args:
            ask: gives a new token.
            ahead: seconds before its expiry at which another one is asked for.
        """
        self._ask, self._ahead = ask, ahead
        self._until = 0.0

    @property
    def due_in(self) -> float:
        """Seconds until another one is to be asked for."""
        return max(0.0, self._until - time.time())

    def refuse(self) -> None:
        """The server did not take it: another one is due."""
        self._until = 0.0

    async def new(self) -> str:
        """Ask for one.

        Raises:
            Transient: none was given; nothing is said of what was.
        """
        try:
            token = await self._ask()
        except Exception as error:  # Whatever the application's code raises may hold a token.
            raise Transient(
                f"No token for Supabase Realtime could be had ({type(error).__name__})",
                remedy="It is asked for again",
            ) from None
        now, until = time.time(), expiry(token)
        # One that is short-lived is used for half of its time at least.
        left = _UNKNOWN if until is None else until - now
        self._until = now + max(left - self._ahead, left / 2, 1.0)
        return token
