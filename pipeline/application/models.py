"""Input and output of the services, as frozen values."""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Generic, Self, TypeVar

import sqlalchemy as sa
from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    model_validator,
)

from pipeline.application.anki_tables import anki_cards
from pipeline.application.fields import (
    AssetType,
    ContentType,
    Creator,
    Deck,
    EmbeddingType,
    FragmentType,
    Int4,
    Int8,
    Json,
    Judge,
    Language,
    Score,
    Tags,
    Text,
    Title,
)
from pipeline.migrations.content import (
    content_fragments,
    fragment_assets,
    learning_content,
    rankings,
)

T = TypeVar("T")


class Frozen(BaseModel):
    """An immutable value without extra fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Frozen):
    """Values to write; only fields that were set are written.

    None means NULL, and is refused if the column is NOT NULL.
    """

    table: ClassVar[sa.Table]

    @model_validator(mode="after")
    def _require_nullable_for_none(self) -> Self:
        for name in self.model_fields_set:
            if getattr(self, name) is None and not self.table.c[name].nullable:
                raise ValueError(f"{name} cannot be None; leave it out instead")
        return self

    def values(self) -> dict[str, Any]:
        """The values to write, by column."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: sa.null() if given[name] is None else given[name]
            for name in given
            if name in self.model_fields_set
        }


class LearningContentUpdate(Input):
    """Changes of a content; other fields stay."""

    table = learning_content

    title: Title | None = None
    content_type: ContentType | None = None
    language: Language | None = None
    native_text: Text | None = None
    translation: Text | None = None
    ipa: Text | None = None
    difficulty_level: Int4 | None = None
    tags: Tags | None = None
    content_metadata: Json | None = None


class LearningContentCreate(Input):
    """A new content; without a language the table's default applies."""

    table = learning_content

    title: Title
    content_type: ContentType
    language: Language | None = None
    native_text: Text
    translation: Text
    ipa: Text
    difficulty_level: Int4 | None = None
    tags: Tags | None = None
    content_metadata: Json | None = None


class FragmentUpdate(Input):
    """Changes of a fragment; other fields stay."""

    table = content_fragments

    native_text: Text | None = None
    body_text: Text | None = None
    ipa: Text | None = None
    extra: Text | None = None
    fragment_type: FragmentType | None = None
    fragment_metadata: Json | None = None


class FragmentCreate(Input):
    """A new fragment of a content."""

    table = content_fragments

    learning_content_id: Int4
    native_text: Text
    body_text: Text
    ipa: Text | None = None
    extra: Text | None = None
    fragment_type: FragmentType
    fragment_metadata: Json | None = None


class AssetCreate(Input):
    """The fields of a file, without its bytes."""

    table = fragment_assets

    fragment_id: Int4
    asset_type: AssetType
    asset_metadata: Json | None = None
    created_by: Creator | None = None


class RankingCreate(Input):
    """A rating of 0 to 5, rounded to two decimals, ties away from zero."""

    table = rankings

    rank_score: Score
    assessed_by: Judge
    assessment_notes: Text | None = None


class RankingUpdate(Input):
    """Changes of a rating; other fields stay."""

    table = rankings

    rank_score: Score | None = None
    assessed_by: Judge | None = None
    assessment_notes: Text | None = None


class CardUpdate(Input):
    """Changes of a card; other fields stay."""

    table = anki_cards

    anki_note_id: Int8 | None = None
    deck_name: Deck | None = None
    tags: Tags | None = None
    learning_content_id: Int4 | None = None
    export_hash: Text | None = None


class CardCreate(Input):
    """A new card."""

    table = anki_cards

    anki_note_id: Int8 | None = None
    deck_name: Deck
    tags: Tags | None = None
    learning_content_id: Int4 | None = None
    export_hash: Text | None = None


class ContentFilter(Frozen):
    """Conditions on contents; all of them have to hold.

    Attributes:
        easiest: the lowest difficulty level, inclusive.
        hardest: the highest difficulty level, inclusive.
        tags_all: tags that a content must have.
        tags_any: tags of which a content must have one; empty for no condition.
        metadata: JSON that the content's metadata must contain.
    """

    content_type: Text | None = None
    language: Text | None = None
    easiest: Int4 | None = None
    hardest: Int4 | None = None
    tags_all: Tags = ()
    tags_any: Tags = ()
    metadata: Json | None = None


class LearningContent(Frozen):
    """A stored content; JSON null reads as None."""

    id: int
    title: str
    content_type: str
    language: str
    native_text: str
    translation: str
    ipa: str
    difficulty_level: int | None
    tags: tuple[str, ...] | None
    content_metadata: JsonValue
    created_at: datetime | None
    updated_at: datetime | None


class Fragment(Frozen):
    """A stored fragment."""

    id: int
    native_text: str
    body_text: str
    ipa: str | None
    extra: str | None
    fragment_type: str
    fragment_metadata: JsonValue
    created_at: datetime | None
    updated_at: datetime | None
    learning_content_id: int | None


class Asset(Frozen):
    """A file of a fragment, without its bytes.

    Attributes:
        size: in bytes.
    """

    id: int
    fragment_id: int | None
    asset_type: AssetType
    asset_metadata: JsonValue
    created_at: datetime | None
    created_by: str | None
    size: int


class Ranking(Frozen):
    """A rating of an asset if asset_id is set, otherwise of a fragment."""

    id: int
    fragment_id: int | None
    asset_id: int | None
    rank_score: Decimal | None
    assessed_by: str
    assessment_notes: str | None
    created_at: datetime | None
    updated_at: datetime | None


class Card(Frozen):
    """The note in Anki of a content."""

    id: int
    anki_note_id: int | None
    deck_name: str
    tags: tuple[str, ...] | None
    created_at: datetime | None
    updated_at: datetime | None
    learning_content_id: int | None
    export_hash: str | None


class Embedding(Frozen):
    """The vector of a card's side."""

    card_id: int
    embedding_type: EmbeddingType
    vector: tuple[float, ...]
    created_at: datetime | None


class Match(Frozen):
    """A card found by its vector.

    Attributes:
        distance: 1 minus the cosine of the angle: 0 for the same direction, 2 for the opposite.
    """

    card_id: int
    embedding_type: str
    distance: float


class Rebuilt(Frozen):
    """The result of a rebuild.

    Attributes:
        filled: number of searchable vectors.
        unreadable: ids of skipped embeddings, whose text is not a vector.
    """

    filled: int
    unreadable: tuple[int, ...]


class Page(Frozen, Generic[T]):
    """A page of a list.

    Attributes:
        items: at most ``limit`` items, after the first ``offset``.
        total: number of items on all pages, at the same moment.
    """

    items: tuple[T, ...]
    total: int
    limit: int
    offset: int
