"""Contents in PostgreSQL; deleting one also deletes its cards in SQLite."""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from pipeline.application import rows
from pipeline.application.models import (
    ContentFilter,
    LearningContent,
    LearningContentCreate,
    LearningContentUpdate,
    Page,
)
from pipeline.application.services import cards, search
from pipeline.application.services.table_service import TableService
from pipeline.migrations.content import learning_content

EVERYTHING = ContentFilter()


class LearningContentService(TableService[LearningContent]):
    """Reads and writes contents."""

    table, model = learning_content, LearningContent

    def create_content(self, payload: LearningContentCreate) -> int:
        """Write a new content.

        Returns:
            its id.
        """
        with self._databases.get_postgres_session() as session:
            return rows.insert(session, learning_content, payload.values())

    def update(self, content_id: int, payload: LearningContentUpdate) -> None:
        """Write the fields that are set, and updated_at; without such fields do nothing."""
        with self._databases.get_postgres_session() as session:
            rows.update(session, payload, content_id, now=sa.func.now())

    def delete(self, number: int) -> None:
        """Delete a content, its fragments, and its cards with their vectors.

        PostgreSQL deletes, then SQLite deletes and commits, then PostgreSQL commits. An
        interruption in between leaves a content without a card, never a card without a content;
        repeat the deletion to finish it.

        Raises:
            NotFound: it does not exist; no card was deleted.
            SourceError: the SQLite file cannot be written; nothing was deleted.
        """
        with self._databases.get_postgres_session() as session:
            rows.delete(session, learning_content, number)
            with self._databases.get_sqlite_session(write=True) as local:
                cards.delete_of_content(local, number)

    def list(
        self, where: ContentFilter = EVERYTHING, *, limit: int = 50, offset: int = 0
    ) -> Page[LearningContent]:
        """Contents that meet a filter, by id.

        Raises:
            Unreadable: the tags of a content are not a list of strings.
        """
        query = sa.select(learning_content).where(*_conditions(where))
        return self._page(query, limit=limit, offset=offset)

    def search(self, text: str, *, limit: int = 50, offset: int = 0) -> Page[LearningContent]:
        """Contents that contain every word of a text in title, native text, translation or IPA.

        Case, accents and length marks do not matter; the shortest content comes first.

        Args:
            text: 1 to 20 words, or parts of words, between spaces.
            limit: page size, 1 to 500.
            offset: number of contents to skip.

        Raises:
            Refused: the text is empty or invalid.
            Unreadable: the tags of a content are not a list of strings.
        """
        query = sa.select(learning_content).where(search.matches(learning_content, text))
        return self._page(query, search.nearest(learning_content), limit=limit, offset=offset)


def _conditions(where: ContentFilter) -> list[sa.ColumnElement[bool]]:
    """SQL for each given condition; those on JSONB use the GIN indexes."""
    column = learning_content.c
    conditions: dict[str, Callable[[], sa.ColumnElement[bool]]] = {
        "content_type": lambda: column.content_type == where.content_type,
        "language": lambda: column.language == where.language,
        "easiest": lambda: column.difficulty_level >= where.easiest,
        "hardest": lambda: column.difficulty_level <= where.hardest,
        "tags_all": lambda: column.tags.contains(where.tags_all),
        "tags_any": lambda: column.tags.has_any(sa.cast(where.tags_any, ARRAY(sa.Text))),
        "metadata": lambda: column.content_metadata.contains(where.metadata),
    }
    return [
        condition()
        for name, condition in conditions.items()
        if getattr(where, name) not in (None, ())
    ]
