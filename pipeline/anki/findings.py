"""Findings of the checks across PostgreSQL, SQLite and Anki, as values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.core.findings import Finding
from pipeline.core.messages import ANKI_RECREATE, ANKI_SYNC, Message, message

Problem = Literal["missing", "different"]

_OFF = "the tag sync::skip keeps it as it is"


@dataclass(frozen=True)
class CardWithoutContent(Finding):
    """A card whose content is not in PostgreSQL; the content may be in quarantine."""

    title: ClassVar[str] = "card without content"
    card: int
    content: int
    waits: bool
    switched_off: bool = False

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        where = "in quarantine" if self.waits else "not in PostgreSQL"
        why = f"; {_OFF}" if self.switched_off else ""
        return f"card {self.card}: its content {self.content} is {where}{why}"


@dataclass(frozen=True)
class SeveralCards(Finding):
    """A content with more than one card."""

    title: ClassVar[str] = "several cards"
    content: int
    cards: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        return f"content {self.content}: several cards exist: {', '.join(map(str, self.cards))}"


@dataclass(frozen=True)
class ExportOutdated(Finding):
    """A card whose last export differs from what rendering produces now."""

    title: ClassVar[str] = "export outdated"
    card: int
    content: int
    parts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        parts = ", ".join(self.parts)
        return f"card {self.card}: content {self.content} has changed since the export ({parts})"


@dataclass(frozen=True)
class NoteMissing(Finding):
    """A card whose note is not in Anki."""

    title: ClassVar[str] = "note missing"
    card: int
    note: int

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        return f"card {self.card}: note {self.note} is not in Anki"


@dataclass(frozen=True)
class AllNotesMissing(Finding):
    """An Anki without any of the notes that the cards name."""

    title: ClassVar[str] = "all notes missing"
    notes: int
    where: str

    @property
    def sentence(self) -> Message:
        """The finding as one sentence."""
        return message(
            f"none of the cards' notes ({self.notes}) is in {self.where}; open the right profile or"
            " collection, or run ",
            ANKI_RECREATE,
            " to create all missing notes again",
        )


@dataclass(frozen=True)
class NoteUntagged(Finding):
    """A note without the tag of its content; no sync tags a note that is switched off."""

    title: ClassVar[str] = "note untagged"
    card: int
    note: int
    tag: str
    switched_off: bool = False

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        why = f"; {_OFF}" if self.switched_off else ""
        return f"card {self.card}: note {self.note} lacks the tag {self.tag}{why}"


@dataclass(frozen=True)
class NoteEdited(Finding):
    """A note whose fields were edited after the export."""

    title: ClassVar[str] = "note edited"
    card: int
    note: int
    fields: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        fields = ", ".join(self.fields)
        return f"card {self.card}: note {self.note} was edited after the export ({fields})"


@dataclass(frozen=True)
class NoteReverted(Finding):
    """A note that has an earlier export again, as an editor leaves it that was open for long."""

    title: ClassVar[str] = "note reverted"
    card: int
    note: int
    content: int
    fields: tuple[str, ...]

    @property
    def sentence(self) -> Message:
        """The finding as one sentence."""
        again = f"note {self.note} has an earlier export again ({', '.join(self.fields)})"
        only = f" --recordings --only {self.content} writes it again"
        return message(f"card {self.card}: {again}; ", ANKI_SYNC, only)


@dataclass(frozen=True)
class RecordingWrong(Finding):
    """A sound file of a note that is missing in Anki, or has different bytes.

    Attributes:
        kept: why no sync stores it again; empty if one does.
    """

    title: ClassVar[str] = "recording wrong"
    note: int
    file: str
    problem: Problem
    kept: str = ""

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        why = f"; {self.kept}" if self.kept else ""
        return f"note {self.note}: {self.file} is {self.problem}{why}"


@dataclass(frozen=True)
class NotConfirmed(Finding):
    """A content whose export Anki did not confirm."""

    title: ClassVar[str] = "not confirmed"
    content: int
    why: str

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        return f"content {self.content}: {self.why}"


@dataclass(frozen=True)
class EmbeddingWithoutCard(Finding):
    """An embedding whose card does not exist."""

    title: ClassVar[str] = "embedding without card"
    embedding: int
    card: int | None

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        return f"embedding {self.embedding}: its card {self.card} does not exist"


@dataclass(frozen=True)
class DimensionDiffers(Finding):
    """An embedding whose declared dimension differs; ``has`` is None for an unreadable vector."""

    title: ClassVar[str] = "dimension differs"
    embedding: int
    declared: int
    has: int | None

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        unread = self.has is None
        actual = "but its vector cannot be read" if unread else f"but its vector has {self.has}"
        return f"embedding {self.embedding}: declares {self.declared} dimensions, {actual}"


@dataclass(frozen=True)
class SearchDiffers(Finding):
    """``vector_search`` and ``vector_embeddings`` disagree about a card's vector."""

    title: ClassVar[str] = "search differs"
    card: int
    embedding_type: str
    problem: Literal["not searchable", "without embedding", "different", "twice"]

    @property
    def sentence(self) -> str:
        """The finding as one sentence."""
        return f"card {self.card}, {self.embedding_type}: {self.problem} in vector_search"
