"""The interface to Anki, independent of how it is accessed."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pipeline.anki.store.errors import AnkiError

CONTENT_TAGS = "sync::content::"
"""The prefix of the tag that names the content of a note."""

SUCCESS = "sync::success"
SKIP = "sync::skip"
"""A card or note with this tag is never changed."""

REMOVED = "sync::removed"
"""Marks a note whose content was deleted."""

SUSPENDED = "sync::suspended"
"""Marks a note that was suspended because its content was deleted."""

OWN_TAGS = "sync::"
"""The prefix of the application's tags; all other tags belong to the learner."""

_CONTENT_TAG = re.compile(rf"{CONTENT_TAGS}([1-9][0-9]{{0,9}})", re.IGNORECASE)


def content_tag(content_id: int) -> str:
    """The tag of a content's note."""
    return f"{CONTENT_TAGS}{content_id}"


def has_tag(tags: Iterable[str], tag: str) -> bool:
    """Whether a tag is among these; like in Anki, case is ignored."""
    return tag.lower() in (each.lower() for each in tags)


def tagged_contents(tags: Iterable[str]) -> list[int]:
    """The contents that these tags name."""
    return [int(match[1]) for tag in tags if (match := _CONTENT_TAG.fullmatch(tag))]


@dataclass(frozen=True)
class Note:
    """A note in Anki; ``fields`` maps names to HTML."""

    id: int
    note_type: str
    fields: Mapping[str, str]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class NewNote:
    """A note to create."""

    deck: str
    note_type: str
    fields: Mapping[str, str]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Anki's reason for refusing a note."""

    why: str


class Anki(Protocol):
    """Notes, tags and media of one collection, open within a ``with`` block.

    Every method raises ``AnkiUnavailable`` if Anki does not answer, and ``AnkiError`` if it refuses
    the request. The caller confirms writes by reading them back.

    Attributes:
        shown: its name in messages.
    """

    shown: str

    def __enter__(self) -> Self:
        """Open it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        ...

    def decks(self) -> list[str]:
        """Names of the decks that can receive notes."""
        ...

    def create_deck(self, name: str) -> None:
        """Create a deck."""
        ...

    def field_names(self, note_type: str) -> list[str] | None:
        """Field names of a note type, None if it does not exist."""
        ...

    def find(self, tag: str) -> list[int]:
        """Ids of the notes with a tag, which may end in ``*``."""
        ...

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """The existing notes among these."""
        ...

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Create notes; returns an id or a refusal for each."""
        ...

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write fields of notes: id -> name -> HTML; returns the refused notes."""
        ...

    def tag(self, tags: Mapping[int, str]) -> None:
        """Add a tag to each of these notes."""
        ...

    def untag(self, ids: Collection[int], tags: Collection[str]) -> None:
        """Remove tags from notes."""
        ...

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        ...

    def media_names(self) -> set[str]:
        """Names of all media files."""
        ...

    def media(self, sizes: Mapping[str, int]) -> dict[str, str]:
        """Hexadecimal MD5 of the existing media files: name -> expected number of bytes."""
        ...

    def store(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write or replace media files."""
        ...


def make_ready(
    anki: Anki,
    *,
    decks: Collection[str],
    note_type: str,
    fields: Sequence[str],
    create_decks: bool,
    dry_run: bool,
) -> None:
    """Make sure that decks, note type and fields for new notes exist.

    Missing decks are created if ``create_decks`` permits it; a dry run creates none.

    Raises:
        AnkiError: a deck, the note type or one of its fields is missing.
    """
    existing = anki.field_names(note_type)
    if existing is None:
        raise AnkiError(
            f"{anki.shown} has no note type {note_type}",
            remedy="Set ANKI_NOTE_TYPE to an existing note type",
        )
    missing_fields = [name for name in fields if name not in existing]
    if missing_fields:
        raise AnkiError(
            f"The note type {note_type} of {anki.shown} has no field {', '.join(missing_fields)}",
            remedy=f"Set ANKI_FIELDS to two of {', '.join(existing)}",
        )
    known = {_folded(name) for name in anki.decks()}
    missing = sorted({name for name in decks if _folded(name) not in known})
    if missing and not create_decks:
        raise AnkiError(
            f"{anki.shown} has no deck {', '.join(missing)}",
            remedy="Create it in Anki, correct ANKI_DECK, or run with --create-deck",
        )
    if not dry_run:
        for name in missing:
            anki.create_deck(name)


def _folded(name: str) -> str:
    """A deck's name as Anki compares it."""
    return unicodedata.normalize("NFC", name).lower()
