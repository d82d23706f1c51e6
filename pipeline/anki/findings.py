"""What the checks across PostgreSQL, SQLite and Anki can find, as values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.core.findings import Finding


@dataclass(frozen=True)
class CardWithoutContent(Finding):
    """A card whose content PostgreSQL does not have; it may wait in quarantine."""

    title: ClassVar[str] = "card without content"
    card: int
    content: int
    waits: bool

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        where = "which waits in quarantine" if self.waits else "which PostgreSQL does not have"
        return f"card {self.card}: of content {self.content}, {where}"


@dataclass(frozen=True)
class SeveralCards(Finding):
    """A content that more than one card stands for."""

    title: ClassVar[str] = "several cards"
    content: int
    cards: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"content {self.content}: has cards {', '.join(map(str, self.cards))}"


@dataclass(frozen=True)
class ExportOutdated(Finding):
    """A card whose last export is not what rendering gives now."""

    title: ClassVar[str] = "export outdated"
    card: int
    content: int
    parts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        parts = ", ".join(self.parts)
        return f"card {self.card}: {parts} of content {self.content} is not as exported"


@dataclass(frozen=True)
class NoteMissing(Finding):
    """A card whose note Anki does not have."""

    title: ClassVar[str] = "note missing"
    card: int
    note: int

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"card {self.card}: note {self.note} is not in Anki"


@dataclass(frozen=True)
class NoteUntagged(Finding):
    """A note that does not say of which content it is."""

    title: ClassVar[str] = "note untagged"
    card: int
    note: int
    tag: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"card {self.card}: note {self.note} lacks the tag {self.tag}"


@dataclass(frozen=True)
class NoteEdited(Finding):
    """A note whose fields are not as they were exported."""

    title: ClassVar[str] = "note edited"
    card: int
    note: int
    fields: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        fields = ", ".join(self.fields)
        return f"card {self.card}: {fields} of note {self.note} is not as exported"


@dataclass(frozen=True)
class RecordingWrong(Finding):
    """A file that a note plays and Anki does not have, or has with other bytes."""

    title: ClassVar[str] = "recording wrong"
    note: int
    file: str
    problem: Literal["missing", "different"]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"note {self.note}: {self.file} is {self.problem}"


@dataclass(frozen=True)
class NotConfirmed(Finding):
    """A content that did not get into Anki as it should be."""

    title: ClassVar[str] = "not confirmed"
    content: int
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"content {self.content}: {self.why}"


@dataclass(frozen=True)
class EmbeddingWithoutCard(Finding):
    """An embedding of a card that is not there."""

    title: ClassVar[str] = "embedding without card"
    embedding: int
    card: int | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"embedding {self.embedding}: of card {self.card}, which is not there"


@dataclass(frozen=True)
class DimensionDiffers(Finding):
    """An embedding that says another dimension than its vector has; None if it is no vector."""

    title: ClassVar[str] = "dimension differs"
    embedding: int
    declared: int
    has: int | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        unread = self.has is None
        actual = "its vector cannot be read" if unread else f"its vector has {self.has}"
        return f"embedding {self.embedding}: says {self.declared} dimensions, {actual}"


@dataclass(frozen=True)
class SearchDiffers(Finding):
    """``vector_search`` and ``vector_embeddings`` disagree about a card's vector."""

    title: ClassVar[str] = "search differs"
    card: int
    embedding_type: str
    problem: Literal["not searchable", "without embedding", "different", "twice"]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"card {self.card}, {self.embedding_type}: {self.problem} in vector_search"
