"""Fragments of contents in PostgreSQL: examples, meanings and tips."""

from typing import Any

import sqlalchemy as sa

from pipeline.application import rows
from pipeline.application.models import Fragment, FragmentCreate, FragmentUpdate, Page
from pipeline.application.services import search
from pipeline.application.services.table_service import TableService
from pipeline.migrations.content import content_fragments, rankings


class FragmentService(TableService[Fragment]):
    """Reads and writes fragments; deleting one also deletes its assets and ratings."""

    table, model = content_fragments, Fragment

    def create(self, payload: FragmentCreate) -> int:
        """Write a new fragment; returns its id.

        Raises:
            Refused: its content does not exist.
        """
        with self._databases.get_postgres_session() as session:
            return rows.insert(session, content_fragments, payload.values())

    def update(self, fragment_id: int, payload: FragmentUpdate) -> None:
        """Write the fields that are set, and updated_at; without such fields do nothing."""
        with self._databases.get_postgres_session() as session:
            rows.update(session, payload, fragment_id, now=sa.func.now())

    def list(
        self,
        *,
        content_id: int | None = None,
        fragment_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Page[Fragment]:
        """Fragments of a content, of a type, of both, or all fragments, by id.

        Args:
            content_id: only those of this content.
            fragment_type: only those of this type.
            limit: page size, 1 to 500.
            offset: number of fragments to skip.
        """
        query = _select(content_id, fragment_type)
        return self._page(query, limit=limit, offset=offset)

    def best_rated(
        self, content_id: int, fragment_type: str, *, limit: int = 50, offset: int = 0
    ) -> Page[Fragment]:
        """Fragments of a content, best average rating first.

        Ratings of assets do not count. Unrated fragments come last, and among equals the newest is
        first.
        """
        rated = (
            sa.select(sa.func.avg(rankings.c.rank_score))
            .where(rankings.c.fragment_id == content_fragments.c.id, rankings.c.asset_id.is_(None))
            .scalar_subquery()
        )
        order = (
            rated.desc().nulls_last(),
            content_fragments.c.created_at.desc().nulls_last(),
            content_fragments.c.id.desc(),
        )
        return self._page(_select(content_id, fragment_type), order, limit=limit, offset=offset)

    def search(self, text: str, *, limit: int = 50, offset: int = 0) -> Page[Fragment]:
        """Fragments that contain every word of a text in native text, body, IPA or extra.

        Case, accents and length marks do not matter; the shortest fragment comes first.

        Args:
            text: 1 to 20 words, or parts of words, between spaces.
            limit: page size, 1 to 500.
            offset: number of fragments to skip.

        Raises:
            Refused: the text is empty or invalid.
        """
        query = sa.select(content_fragments).where(search.matches(content_fragments, text))
        return self._page(query, search.nearest(content_fragments), limit=limit, offset=offset)


def _select(content_id: int | None, fragment_type: str | None) -> sa.Select[Any]:
    query = sa.select(content_fragments)
    if content_id is not None:
        query = query.where(content_fragments.c.learning_content_id == content_id)
    if fragment_type is not None:
        query = query.where(content_fragments.c.fragment_type == fragment_type)
    return query
