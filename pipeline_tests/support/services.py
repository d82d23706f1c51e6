"""What the tests of the services share: both databases with their tables, and every service."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.application import anki_tables
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import FragmentCreate, LearningContentCreate
from pipeline.application.services.assets import FragmentAssetManager
from pipeline.application.services.cards import CardService
from pipeline.application.services.fragments import FragmentService
from pipeline.application.services.learning_content import LearningContentService
from pipeline.application.services.rankings import RankingService
from pipeline.application.services.vectors import VectorService
from pipeline.config.settings import libpq
from pipeline.migrations import content

MP3 = b"ID3\x04" + bytes(range(256)) * 4


@dataclass(frozen=True)
class Door:
    """Every service on two databases of a test's own."""

    databases: HybridDatabaseManager
    contents: LearningContentService
    fragments: FragmentService
    assets: FragmentAssetManager
    rankings: RankingService
    cards: CardService
    vectors: VectorService

    @classmethod
    def over(cls, databases: HybridDatabaseManager) -> "Door":
        """Every service over these databases."""
        kinds = (
            LearningContentService,
            FragmentService,
            FragmentAssetManager,
            RankingService,
            CardService,
            VectorService,
        )
        return cls(databases, *(kind(databases) for kind in kinds))

    def add_content(self, **values: Any) -> int:
        """A content; what is not said is sound."""
        sound = {"title": "กิน", "content_type": "vocabulary", "native_text": "กิน"}
        sound |= {"translation": "to eat", "ipa": "[kin]"}
        return self.contents.create_content(LearningContentCreate(**{**sound, **values}))

    def add_fragment(self, content_id: int, **values: Any) -> int:
        """A fragment; what is not said is sound."""
        sound = {"native_text": "ผมกินข้าว", "body_text": "I eat.", "fragment_type": "usage_tip"}
        made = FragmentCreate(learning_content_id=content_id, **{**sound, **values})
        return self.fragments.create(made)

    def postgres(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one statement in PostgreSQL, committed."""
        with self.databases.get_postgres_session() as session:
            return _rows(session.execute(sa.text(sql)))

    def sqlite(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows of one statement in SQLite, committed."""
        with self.databases.get_sqlite_session() as session:
            return _rows(session.execute(sa.text(sql), values))


def _rows(result: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture
def door(tmp_path: Path, database: URL) -> Iterator[Door]:
    """Every service, on empty tables; vector_search is not there yet."""
    path = tmp_path / "cards.db"
    path.touch()
    with HybridDatabaseManager(path, libpq(database), busy_seconds=0.2) as databases:
        with databases.get_postgres_session() as session:
            content.metadata.create_all(session.connection())
        kept = [anki_tables.anki_cards, anki_tables.vector_embeddings]
        with databases.get_sqlite_session() as session:
            anki_tables.metadata.create_all(session.connection(), tables=kept)
        yield Door.over(databases)
