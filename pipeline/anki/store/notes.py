"""The interface to Anki, independent of how it is accessed."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

CONTENT_TAGS = "sync::content::"
"""The prefix of the tag that names the content of a note."""

SOURCE_TAGS = "sync::source::"
"""The prefix of the tag that tells the notes of several sources apart."""

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


def source_tag(label: str) -> str:
    """The tag of a source's notes."""
    return f"{SOURCE_TAGS}{label}"


def source_tags(tags: Iterable[str]) -> list[str]:
    """The tags of sources among these."""
    return [tag for tag in tags if tag.lower().startswith(SOURCE_TAGS)]


def has_tag(tags: Iterable[str], tag: str) -> bool:
    """Whether a tag is among these; like in Anki, case is ignored."""
    return tag.lower() in (each.lower() for each in tags)


def tagged_contents(tags: Iterable[str]) -> list[int]:
    """The contents that these tags name."""
    return [int(match[1]) for tag in tags if (match := _CONTENT_TAG.fullmatch(tag))]


@dataclass(frozen=True)
class Note:
    """A note in Anki; ``fields`` maps names to HTML, ``cards`` are the ids of its cards."""

    id: int
    note_type: str
    fields: Mapping[str, str]
    tags: tuple[str, ...]
    cards: tuple[int, ...] = ()


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
        settle_seconds: after this time, a written note is read again, because an editor that was
            open during the write may put the text before back; None if no other program can write.
    """

    shown: str
    settle_seconds: float | None

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

    def profile(self) -> str | None:
        """The name of the open profile, None if it is unknown."""
        ...

    def decks(self) -> list[str]:
        """Names of all decks."""
        ...

    def default_deck(self) -> str:
        """The name of the deck that always exists."""
        ...

    def filtered(self, decks: Collection[str]) -> list[str]:
        """The filtered decks among these."""
        ...

    def decks_of(self, cards: Collection[int]) -> dict[int, str]:
        """The decks of the existing cards among these: card id -> name."""
        ...

    def move(self, cards: Collection[int], deck: str) -> None:
        """Move cards to a deck."""
        ...

    def create_deck(self, name: str) -> None:
        """Create a deck."""
        ...

    def field_names(self, note_type: str) -> list[str] | None:
        """Field names of a note type, None if it does not exist."""
        ...

    def find(self, tag: str, *, without: str | None = None) -> list[int]:
        """Ids of the notes with a tag, which may end in ``*``, and without another one."""
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
