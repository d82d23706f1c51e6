"""Fragments of contents in PostgreSQL: examples, meanings and tips."""

from typing import Any

import sqlalchemy as sa

from pipeline.application import rows
from pipeline.application.models import Fragment, FragmentCreate, FragmentUpdate, Page
from pipeline.application.services import search
from pipeline.application.services.table_service import TableService
from pipeline.migrations.content import content_fragments, rankings


class FragmentService(TableService[Fragment]):
    """Reads and writes fragments; with one go its assets and ratings."""

    table, model = content_fragments, Fragment

    def create(self, payload: FragmentCreate) -> int:
        """Write a new fragment.

        Returns:
            its id.

        Raises:
            Refused: its content does not exist.
        """
        with self._databases.get_postgres_session() as session:
            return rows.insert(session, content_fragments, payload.values())

    def update(self, fragment_id: int, payload: FragmentUpdate) -> None:
        """Write the fields that are set, and the moment as updated_at; without any, nothing.

        Raises:
            NotFound: there is no fragment with this id.
        """
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
        """Fragments of a content, of a type, of both or all, by id.

        Args:
            content_id: only those of this content.
            fragment_type: only those of this type.
            limit: fragments of this page, 1 to 500.
            offset: fragments before it, 0 or more.

        Raises:
            Refused: limit or offset are out of bounds.
        """
        query = _of(content_id, fragment_type)
        return self._page(query, limit=limit, offset=offset)

    def best_rated(
        self, content_id: int, fragment_type: str, *, limit: int = 50, offset: int = 0
    ) -> Page[Fragment]:
        """Fragments of a content, those first whose ratings are best on average.

        Ratings of assets do not count. Unrated ones come last, among equals the newest first.

        Args:
            content_id: of which content.
            fragment_type: of which type.
            limit: fragments of this page, 1 to 500.
            offset: fragments before it, 0 or more.

        Raises:
            Refused: limit or offset are out of bounds.
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
        return self._page(_of(content_id, fragment_type), order, limit=limit, offset=offset)

    def search(self, text: str, *, limit: int = 50, offset: int = 0) -> Page[Fragment]:
        """Fragments that hold every word of a text in native text, body, IPA or extra.

        Case, accents and marks of length do not matter; the shortest fragment comes first.

        Args:
            text: 1 to 20 words, or parts of words, between spaces.
            limit: fragments of this page, 1 to 500.
            offset: fragments before it, 0 or more.

        Raises:
            Refused: the text is empty or cannot occur, or limit or offset are out of bounds.
        """
        query = sa.select(content_fragments).where(search.matches(content_fragments, text))
        return self._page(query, search.nearest(content_fragments), limit=limit, offset=offset)


def _of(content_id: int | None, fragment_type: str | None) -> sa.Select[Any]:
    query = sa.select(content_fragments)
    if content_id is not None:
        query = query.where(content_fragments.c.learning_content_id == content_id)
    if fragment_type is not None:
        query = query.where(content_fragments.c.fragment_type == fragment_type)
    return query
