"""What AnkiConnect's errors, and those of the connection to it, say to people."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from pipeline.anki.store.errors import AnkiError, AnkiUnavailable, Unsupported

MESSAGE_CHARACTERS = 200
"""The length of the add-on's own text in a message."""

_REMEDIES = {
    "collection is not available": (AnkiError, "Open a profile in Anki, then run again"),
    "unsupported action": (Unsupported, "Update the add-on AnkiConnect in Anki"),
}


@dataclass(frozen=True)
class ConnectErrors:
    """Errors of one AnkiConnect.

    Attributes:
        shown: its name in messages.
        timeout: for an answer, in seconds.
    """

    shown: str
    timeout: float

    @contextmanager
    def reading(self, action: str) -> Iterator[None]:
        """An answer is read that may not be AnkiConnect's."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self.unexpected(action) from None

    def unavailable(self, action: str, error: Exception) -> AnkiUnavailable:
        """There was no answer."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            return AnkiUnavailable(
                f"{self.shown} did not answer {action} within {self.timeout:g} s",
                remedy="Check whether a dialog is open in Anki, then run again",
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return AnkiUnavailable(
                f"{self.shown} does not answer",
                remedy="Start Anki with the add-on AnkiConnect, or correct ANKI_CONNECT_URL",
            )
        return AnkiUnavailable(
            f"{self.shown} closed the connection during {action}",
            remedy="Run again; the next run detects what was written",
        )

    def rejected(self, action: str, problem: str) -> AnkiError:
        """The add-on refuses one request."""
        return AnkiError(
            f"{self.shown} rejected {action} ({problem[:MESSAGE_CHARACTERS]})",
            remedy="Fix the problem in Anki, then run again; confirmed exports are saved",
        )

    def unexpected(self, action: str) -> AnkiError:
        """The answer is not AnkiConnect's."""
        return AnkiError(
            f"{self.shown} answered {action} in a format that is not AnkiConnect's",
            remedy="Check ANKI_CONNECT_URL",
        )

    def raise_general(self, action: str, problem: str) -> None:
        """Raise for errors that concern more than one request; they end the run."""
        for words, (kind, remedy) in _REMEDIES.items():
            if words in problem:
                raise kind(
                    f"{self.shown} rejected {action} ({problem[:MESSAGE_CHARACTERS]})",
                    remedy=remedy,
                )
        if "api key" in problem.lower():
            raise AnkiError(
                f"{self.shown} rejected the API key",
                remedy="Set ANKI_CONNECT_KEY to the apiKey in AnkiConnect's configuration",
            )
