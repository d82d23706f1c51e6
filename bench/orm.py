"""A move through an ORM: query all rows, build objects, add them and commit, table by table.

Models, `_serialize` and `Model(**item)` are as in the original plan's exporter and importer. Unlike
in the plan, ids are preserved, so no flush per fragment is needed to obtain them.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Float, ForeignKey, Numeric, create_engine, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from bench.target import TABLES

_JSON = JSON().with_variant(JSONB(), "postgresql")
_SCORE = Float().with_variant(Numeric(3, 2), "postgresql")


class Base(DeclarativeBase):
    """Types of both databases; in PostgreSQL, JSON is JSONB and times have a time zone."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        list[str]: _JSON,
        dict[str, Any]: _JSON,
        datetime: DateTime(timezone=True),
    }


class LearningContent(Base):
    """A row of learning_content."""

    __tablename__ = "learning_content"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    content_type: Mapped[str]
    language: Mapped[str]
    native_text: Mapped[str]
    translation: Mapped[str]
    ipa: Mapped[str]
    difficulty_level: Mapped[int | None]
    tags: Mapped[list[str] | None]
    content_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]
    last_review_at: Mapped[datetime | None]


class ContentFragment(Base):
    """A row of content_fragments."""

    __tablename__ = "content_fragments"
    id: Mapped[int] = mapped_column(primary_key=True)
    native_text: Mapped[str]
    body_text: Mapped[str]
    ipa: Mapped[str | None]
    extra: Mapped[str | None]
    fragment_type: Mapped[str]
    fragment_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]
    learning_content_id: Mapped[int | None] = mapped_column(ForeignKey("learning_content.id"))


class FragmentAsset(Base):
    """A row of fragment_assets."""

    __tablename__ = "fragment_assets"
    id: Mapped[int] = mapped_column(primary_key=True)
    fragment_id: Mapped[int | None] = mapped_column(ForeignKey("content_fragments.id"))
    asset_type: Mapped[str]
    asset_data: Mapped[bytes]
    asset_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime | None]
    created_by: Mapped[str | None]


class Ranking(Base):
    """A row of rankings."""

    __tablename__ = "rankings"
    id: Mapped[int] = mapped_column(primary_key=True)
    fragment_id: Mapped[int | None] = mapped_column(ForeignKey("content_fragments.id"))
    asset_id: Mapped[int | None] = mapped_column(ForeignKey("fragment_assets.id"))
    rank_score: Mapped[float | None] = mapped_column(_SCORE)
    assessed_by: Mapped[str]
    assessment_notes: Mapped[str | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]


def move(source: Path, url: str) -> None:
    """Move the four tables into the empty database at `url`, after creating keys and indexes."""
    reader = create_engine(f"sqlite:///{source}")
    writer = create_engine(
        url.replace("postgresql://", "postgresql+psycopg2://", 1),
        connect_args={"options": "-c timezone=UTC"},
    )
    with writer.begin() as connection:
        for table in TABLES:
            for statement in (table.create, *table.keys):
                connection.execute(text(statement))
    export, load = sessionmaker(reader), sessionmaker(writer)
    for model in (LearningContent, ContentFragment, FragmentAsset, Ranking):
        with export() as session:
            items = [_serialize(row) for row in session.query(model).all()]
        with load() as session:
            for item in items:
                session.add(model(**item))
            session.commit()
    reader.dispose()
    writer.dispose()


def _serialize(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}
