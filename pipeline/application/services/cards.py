"""Cards in SQLite, which map contents to notes in Anki."""

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

    Every method is a transaction. All raise SourceError if the SQLite file is missing, locked or
    damaged, or the disk is full, Refused for an invalid value or key, and NotFound for an id that
    does not exist. Pages have ``limit`` cards, 1 to 500, after the first ``offset``.
    """

    def __init__(self, databases: HybridDatabaseManager) -> None:
        """Use these databases; the caller closes them."""
        self._databases = databases

    def create(self, payload: CardCreate) -> int:
        """Write a new card; returns its id.

        Raises:
            NotFound: its content does not exist.
            TargetError: it has a content, and PostgreSQL does not answer.
        """
        with (
            self._content_locked(payload),
            self._databases.get_sqlite_session(write=True) as session,
        ):
            now = datetime.now(UTC)
            values = {"created_at": now, "updated_at": now, **payload.values()}
            return rows.insert(session, anki_cards, values)

    def get(self, card_id: int) -> Card:
        """Read a card.

        Raises:
            Unreadable: its tags are not a list of strings.
        """
        with self._databases.get_sqlite_session() as session:
            return _card(rows.one(session, _cards(), table=anki_cards, number=card_id))

    def by_content(self, content_id: int, *, limit: int = 50, offset: int = 0) -> Page[Card]:
        """Cards of a content, by id.

        Raises:
            Unreadable: the tags of a card are not a list of strings.
        """
        query = _cards().where(anki_cards.c.learning_content_id == content_id)
        return self._page(query, limit=limit, offset=offset)

    def list(self, *, limit: int = 50, offset: int = 0) -> Page[Card]:
        """All cards, by id.

        Raises:
            Unreadable: the tags of a card are not a list of strings.
        """
        return self._page(_cards(), limit=limit, offset=offset)

    def update(self, card_id: int, payload: CardUpdate) -> None:
        """Write the fields that are set, and updated_at; without such fields do nothing.

        Raises:
            NotFound: the card or its new content does not exist.
            TargetError: it gets a content, and PostgreSQL does not answer.
        """
        with (
            self._content_locked(payload),
            self._databases.get_sqlite_session(write=True) as session,
        ):
            rows.update(session, payload, card_id, now=datetime.now(UTC))

    def delete(self, card_id: int) -> None:
        """Delete a card with its vectors."""
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
    def _content_locked(self, payload: CardCreate | CardUpdate) -> Iterator[None]:
        """Lock the content of a card, so that it is not deleted before the card is written."""
        if payload.learning_content_id is None:
            yield
            return
        with self._databases.get_postgres_session() as session:
            lock = sa.select(learning_content.c.id).with_for_update(read=True, key_share=True)
            rows.one(session, lock, table=learning_content, number=payload.learning_content_id)
            yield


def delete_of_content(session: Session, content_id: int) -> None:
    """Delete the cards of a content with their vectors, within a session with SQLite."""
    by_content_id = anki_cards.c.learning_content_id == content_id
    _delete_vectors(session, sa.select(anki_cards.c.id).where(by_content_id))
    session.execute(sa.delete(anki_cards).where(by_content_id))


def _delete_vectors(session: Session, card_ids: sa.Select[tuple[int]]) -> None:
    existing = sa.inspect(session.connection()).get_table_names()
    for table in (vector_search, vector_embeddings):
        if table.name in existing:
            session.execute(sa.delete(table).where(table.c.card_id.in_(card_ids)))


def _cards() -> sa.Select[Any]:
    """All cards, with tags as bytes, because they may be neither JSON nor UTF-8."""
    tags = sa.cast(anki_cards.c.tags, sa.LargeBinary).label("tags")
    return sa.select(*(c for c in anki_cards.c if c is not anki_cards.c.tags), tags)


def _card(row: Mapping[Any, Any]) -> Card:
    try:
        tags = None if row["tags"] is None else json.loads(row["tags"].decode())
    except (ValueError, RecursionError) as error:
        raise Unreadable.of("anki_cards", row["id"], f"tags are not JSON ({error})") from error
    return _read({**row, "tags": tags})
