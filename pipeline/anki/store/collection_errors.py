"""What errors of Anki's own package, and of files, say to people."""

import re

from pipeline.anki.store.errors import AnkiError, AnkiUnavailable
from pipeline.core.errors import FilesError

_KNOWN = (
    (
        AnkiUnavailable,
        ("already open", "locked"),
        "another program has opened it",
        "Close Anki, or install AnkiConnect in it and set ANKI_CONNECT_URL",
    ),
    (
        AnkiError,
        ("full", "No space left"),
        "the disk is full",
        "Free disk space and run again; confirmed exports are saved",
    ),
    (
        AnkiError,
        ("readonly", "Permission denied", "Read-only", "unable to open", "CannotOpen"),
        "it cannot be written",
        "Give this user write permission for the file, its folder and its media",
    ),
    (
        AnkiError,
        ("too new", "newer version", "FileTooNew"),
        "it was written by a newer version of Anki",
        "Install a newer anki package, or use AnkiConnect",
    ),
)


_DAMAGE = (
    "malformed",
    "Corrupt",
    "not a database",
    "NotADatabase",
    "utf-8",
    "ProtoError",
    "Invalid type",
)
"""Words of errors about what is stored in a collection."""


def system_message(error: Exception) -> str:
    """The operating system's message for a file error."""
    cause = error.__cause__ if isinstance(error, FilesError) else error
    return getattr(cause, "strerror", None) or str(error)


def damaged(shown: str, text: str) -> AnkiError:
    """A damaged collection."""
    return AnkiError(
        f"{shown}: it is damaged ({text})",
        remedy="In Anki, use Tools, Check Database; if that fails, restore one of its backups",
    )


def translate(shown: str, text: str) -> AnkiError:
    """The error for a text of Anki, of SQLite or of the operating system."""
    detail = _detail(text)
    for kind, words, problem, remedy in _KNOWN:
        if any(word in text for word in words):
            return kind(f"{shown}: {problem} ({detail})", remedy=remedy)
    if any(word in text for word in _DAMAGE):
        return damaged(shown, detail)
    return AnkiError(
        f"{shown}: Anki cannot use it ({detail})",
        remedy="Check the collection in Anki, then run again",
    )


def _detail(text: str) -> str:
    """The message within the text of an error, which names the types of Anki's own program."""
    found = re.search(r'Some\(\\?"(.*?)\\?"\)', text) or re.search(r'info: "(.*?)"(?:,| })', text)
    return (found[1] if found else text).strip()[:200]
