"""Cards in SQLite: which content is which note in Anki."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.application import rows
from pipeline.application.anki_tables import anki_cards, vector_embeddings, vector_search
from pipeline.application.errors import Unreadable
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import Card, CardCreate, CardUpdate, Page
from pipeline.migrations.content import learning_content

_read = rows.reading(Card, anki_cards)


class CardService:
    """Reads and writes cards.

    Every method is a transaction of its own. All raise SourceError when the SQLite file is
    missing, locked, full or damaged, and Refused for a value or a key that it does not take.
    """

    def __init__(self, databases: HybridDatabaseManager) -> None:
        """Use these databases, which the caller closes."""
        self._databases = databases

    def create(self, payload: CardCreate) -> int:
        """Write a new card.

        Returns:
            its id.

        Raises:
            NotFound: the content that it names does not exist.
            TargetError: it names one, and PostgreSQL does not answer.
        """
        with self._content_kept(payload), self._databases.get_sqlite_session(write=True) as session:
            now = datetime.now(UTC)
            values = {"created_at": now, "updated_at": now, **payload.values()}
            return rows.insert(session, anki_cards, values)

    def get(self, card_id: int) -> Card:
        """Read a card.

        Raises:
            NotFound: there is none with this id.
            Unreadable: its tags are not a list of strings.
        """
        with self._databases.get_sqlite_session() as session:
            return _card(rows.one(session, _cards(), table=anki_cards, number=card_id))

    def by_content(self, content_id: int, *, limit: int = 50, offset: int = 0) -> Page[Card]:
        """Cards of a content, by id.

        Args:
            content_id: of which content.
            limit: cards of this page, 1 to 500.
            offset: cards before it, 0 or more.

        Raises:
            Refused: limit or offset are out of bounds.
            Unreadable: the tags of one of them are not a list of strings.
        """
        query = _cards().where(anki_cards.c.learning_content_id == content_id)
        return self._page(query, limit=limit, offset=offset)

    def list(self, *, limit: int = 50, offset: int = 0) -> Page[Card]:
        """All cards, by id.

        Args:
            limit: cards of this page, 1 to 500.
            offset: cards before it, 0 or more.

        Raises:
            Refused: limit or offset are out of bounds.
            Unreadable: the tags of one of them are not a list of strings.
        """
        return self._page(_cards(), limit=limit, offset=offset)

    def update(self, card_id: int, payload: CardUpdate) -> None:
        """Write the fields that are set, and the moment as updated_at; without any, nothing.

        Raises:
            NotFound: there is no card with this id, or no content that it shall name.
            TargetError: it shall name one, and PostgreSQL does not answer.
        """
        with self._content_kept(payload), self._databases.get_sqlite_session(write=True) as session:
            rows.update(session, payload, card_id, now=datetime.now(UTC))

    def delete(self, card_id: int) -> None:
        """Delete a card with its vectors.

        Raises:
            NotFound: there is no card with this id.
        """
        with self._databases.get_sqlite_session(write=True) as session:
            rows.delete(session, anki_cards, card_id)
            _delete_vectors(session, sa.select(sa.literal(card_id)))

    def _page(self, query: sa.Select[Any], *, limit: int, offset: int) -> Page[Card]:
        with self._databases.get_sqlite_session(snapshot=True) as session:
            return rows.page_of(
                session,
                query,
                _card,
                order=(anki_cards.c.id,),
                limit=limit,
                offset=offset,
            )

    @contextmanager
    def _content_kept(self, payload: CardCreate | CardUpdate) -> Iterator[None]:
        """Let nobody delete the content that a card is about to name before the card is there."""
        if payload.learning_content_id is None:
            yield
            return
        with self._databases.get_postgres_session() as session:
            kept = sa.select(learning_content.c.id).with_for_update(read=True, key_share=True)
            rows.one(session, kept, table=learning_content, number=payload.learning_content_id)
            yield


def delete_of_content(session: Session, content_id: int) -> None:
    """Delete the cards of a content with their vectors, within a session with SQLite."""
    of_content = anki_cards.c.learning_content_id == content_id
    _delete_vectors(session, sa.select(anki_cards.c.id).where(of_content))
    session.execute(sa.delete(anki_cards).where(of_content))


def _delete_vectors(session: Session, card_ids: sa.Select[tuple[int]]) -> None:
    present = sa.inspect(session.connection()).get_table_names()
    for table in (vector_search, vector_embeddings):
        if table.name in present:
            session.execute(sa.delete(table).where(table.c.card_id.in_(card_ids)))


def _cards() -> sa.Select[Any]:
    """Tags as bytes, because they may be neither JSON nor UTF-8."""
    tags = sa.cast(anki_cards.c.tags, sa.LargeBinary).label("tags")
    return sa.select(*(c for c in anki_cards.c if c is not anki_cards.c.tags), tags)


def _card(row: Mapping[Any, Any]) -> Card:
    try:
        tags = None if row["tags"] is None else json.loads(row["tags"].decode())
    except (ValueError, RecursionError) as error:
        raise Unreadable.of("anki_cards", row["id"], f"tags are not JSON ({error})") from error
    return _read({**row, "tags": tags})
