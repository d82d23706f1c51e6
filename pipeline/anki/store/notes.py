"""What the project asks of Anki, whichever way it is reached."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pipeline.anki.store.errors import AnkiError

CONTENT_TAGS = "sync::content::"
"""How the tag begins that says of which content a note is."""

SUCCESS = "sync::success"
SKIP = "sync::skip"
"""A card or note with this tag is left as it is."""

REMOVED = "sync::removed"
"""Marks a note whose content is not there any more."""

SUSPENDED = "sync::suspended"
"""Marks a note that was suspended because its content is not there any more."""

OWN_TAGS = "sync::"
"""Tags that begin so belong to the application; all others belong to the learner."""


_OF_CONTENT = re.compile(rf"{CONTENT_TAGS}([1-9][0-9]{{0,9}})", re.IGNORECASE)


def tag_of(content_id: int) -> str:
    """The tag that says of which content a note is."""
    return f"{CONTENT_TAGS}{content_id}"


def has_tag(tags: Iterable[str], tag: str) -> bool:
    """Whether a tag is among these; Anki does not tell capitals from small letters."""
    return tag.lower() in (each.lower() for each in tags)


def contents_of(tags: Iterable[str]) -> list[int]:
    """The contents that these tags name."""
    return [int(met[1]) for tag in tags if (met := _OF_CONTENT.fullmatch(tag))]


@dataclass(frozen=True)
class Note:
    """A note as Anki has it.

    Attributes:
        fields: name -> HTML.
    """

    id: int
    note_type: str
    fields: Mapping[str, str]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class NewNote:
    """A note to be made."""

    deck: str
    note_type: str
    fields: Mapping[str, str]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Why Anki did not take a note, in its own words."""

    why: str


class Anki(Protocol):
    """Notes, tags and media of one collection, open for as long as a block lasts.

    Every method raises ``AnkiGone`` when Anki does not answer and ``AnkiError`` when it refuses as
    a whole. Whether a write took effect is for the caller to see by reading it back.

    Attributes:
        shown: what messages call it.
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
        """Let it go."""
        ...

    def decks(self) -> list[str]:
        """Names of the decks that notes can be put into."""
        ...

    def create_deck(self, name: str) -> None:
        """Make a deck."""
        ...

    def fields_of(self, note_type: str) -> list[str] | None:
        """Names of a note type's fields, None if there is no such type."""
        ...

    def find(self, tag: str) -> list[int]:
        """Ids of the notes with a tag; it may end in ``*``."""
        ...

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """Those of the notes that exist."""
        ...

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Make notes; for each its id, or why Anki did not make it."""
        ...

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write fields of notes: id -> name -> HTML; the notes that Anki did not take."""
        ...

    def tag(self, tags: Mapping[int, str]) -> None:
        """Give each of these notes a tag."""
        ...

    def untag(self, ids: Collection[int], tag: str) -> None:
        """Take a tag from notes."""
        ...

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        ...

    def media_names(self) -> set[str]:
        """Names of all media files."""
        ...

    def media(self, names: Collection[str]) -> dict[str, str]:
        """MD5 of the media files of these names that exist, in hexadecimal."""
        ...

    def store(self, name: str, data: bytes) -> None:
        """Write a media file, in place of one of that name."""
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
    """Make sure that notes can be made before any is.

    Args:
        anki: open.
        decks: names of the decks that notes will go to.
        note_type: their type.
        fields: those of its fields that will be written.
        create_decks: make decks that are missing.
        dry_run: but do not.

    Raises:
        AnkiError: a deck, the note type or one of its fields is missing.
    """
    there = anki.fields_of(note_type)
    if there is None:
        raise AnkiError(
            f"{anki.shown} has no note type {note_type}",
            remedy="Set ANKI_NOTE_TYPE to one that it has",
        )
    lacking = [name for name in fields if name not in there]
    if lacking:
        raise AnkiError(
            f"The note type {note_type} of {anki.shown} has no field {', '.join(lacking)}",
            remedy=f"Set ANKI_FIELDS to two of {', '.join(there)}",
        )
    known = {_folded(name) for name in anki.decks()}
    missing = sorted({name for name in decks if _folded(name) not in known})
    if missing and not create_decks:
        raise AnkiError(
            f"{anki.shown} has no deck {', '.join(missing)}",
            remedy="Make it in Anki, correct ANKI_DECK, or let this run make it (--create-deck)",
        )
    if not dry_run:
        for name in missing:
            anki.create_deck(name)


def _folded(name: str) -> str:
    """A deck's name as Anki compares it."""
    return unicodedata.normalize("NFC", name).lower()
