"""What the checks across PostgreSQL, SQLite and Anki can find, as values."""

from dataclasses import dataclass
from typing import Literal

from pipeline.move.findings import Finding, say


@dataclass(frozen=True)
class CardWithoutContent(Finding):
    """A card whose content PostgreSQL does not have; it may wait in quarantine."""

    card: int
    content: int
    waits: bool


@dataclass(frozen=True)
class SeveralCards(Finding):
    """A content that more than one card stands for."""

    content: int
    cards: tuple[int, ...]


@dataclass(frozen=True)
class ExportOutdated(Finding):
    """A card whose last export is not what rendering gives now."""

    card: int
    content: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class NoteMissing(Finding):
    """A card whose note Anki does not have."""

    card: int
    note: int


@dataclass(frozen=True)
class NoteUntagged(Finding):
    """A note that does not say of which content it is."""

    card: int
    note: int
    tag: str


@dataclass(frozen=True)
class NoteEdited(Finding):
    """A note whose fields are not as they were exported."""

    card: int
    note: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class RecordingWrong(Finding):
    """A file that a note plays and Anki does not have, or has with other bytes."""

    note: int
    file: str
    problem: Literal["missing", "different"]


@dataclass(frozen=True)
class NotConfirmed(Finding):
    """A content that did not get into Anki as it should be."""

    content: int
    why: str


@dataclass(frozen=True)
class EmbeddingWithoutCard(Finding):
    """An embedding of a card that is not there."""

    embedding: int
    card: int | None


@dataclass(frozen=True)
class DimensionDiffers(Finding):
    """An embedding that says another dimension than its vector has; None if it is no vector."""

    embedding: int
    says: int
    has: int | None


@dataclass(frozen=True)
class SearchDiffers(Finding):
    """``vector_search`` and ``vector_embeddings`` disagree about a card's vector."""

    card: int
    embedding_type: str
    problem: Literal["not searchable", "without embedding", "different", "twice"]


_AnkiFinding = (
    CardWithoutContent
    | SeveralCards
    | ExportOutdated
    | NoteMissing
    | NoteUntagged
    | NoteEdited
    | RecordingWrong
    | NotConfirmed
    | EmbeddingWithoutCard
    | DimensionDiffers
    | SearchDiffers
)


@say.register
def _(finding: _AnkiFinding) -> str:
    match finding:
        case CardWithoutContent(card, content, waits):
            where = "which waits in quarantine" if waits else "which PostgreSQL does not have"
            return f"card {card}: of content {content}, {where}"
        case SeveralCards(content, cards):
            return f"content {content}: has cards {', '.join(map(str, cards))}"
        case ExportOutdated(card, content, parts):
            return f"card {card}: {', '.join(parts)} of content {content} is not as exported"
        case NoteMissing(card, note):
            return f"card {card}: note {note} is not in Anki"
        case NoteUntagged(card, note, tag):
            return f"card {card}: note {note} lacks the tag {tag}"
        case NoteEdited(card, note, fields):
            return f"card {card}: {', '.join(fields)} of note {note} is not as exported"
        case RecordingWrong(note, file, problem):
            return f"note {note}: {file} is {problem}"
        case NotConfirmed(content, why):
            return f"content {content}: {why}"
        case EmbeddingWithoutCard(embedding, card):
            return f"embedding {embedding}: of card {card}, which is not there"
        case DimensionDiffers(embedding, says, has):
            actual = "its vector cannot be read" if has is None else f"its vector has {has}"
            return f"embedding {embedding}: says {says} dimensions, {actual}"
        case SearchDiffers(card, embedding_type, problem):
            return f"card {card}, {embedding_type}: {problem} in vector_search"
