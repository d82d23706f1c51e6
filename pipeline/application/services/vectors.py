"""Vectors of cards in SQLite, and search for similar cards.

The numbers are stored as JSON text in vector_embeddings, and again as 32-bit floats in
vector_search, which sqlite-vec searches. Both are written in one transaction, and vector_search can
be rebuilt from vector_embeddings at any time.
"""

import json
import math
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from pipeline.application import rows
from pipeline.application.anki_tables import anki_cards, vector_embeddings, vector_search
from pipeline.application.errors import NotFound, Refused, Unreadable
from pipeline.application.fields import MAX_PAGE, EmbeddingType
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import Embedding, Match, Rebuilt

_stored, _searched = vector_embeddings.c, vector_search.c
_VECTOR = TypeAdapter(tuple[FiniteFloat, ...])


class VectorService:
    """Stores one vector for each side of a card, and finds the nearest by brute force.

    Every method is a transaction. All raise SourceError if the SQLite file is missing, locked or
    damaged, or the disk is full.
    """

    def __init__(self, databases: HybridDatabaseManager) -> None:
        """Use these databases; the caller closes them."""
        self._databases = databases

    def store(self, card_id: int, embedding_type: str, vector: Sequence[float]) -> None:
        """Store the vector of a side; it replaces an earlier one.

        Args:
            card_id: the card.
            embedding_type: front, back or combined.
            vector: finite numbers, not all zero, as many as in other vectors.

        Raises:
            NotFound: the card does not exist.
            Refused: the type or the vector is invalid.
        """
        _require_type(embedding_type)
        floats = _floats(vector)
        with self._databases.get_sqlite_session(write=True) as session:
            rows.one(session, sa.select(anki_cards.c.id), table=anki_cards, number=card_id)
            _remove(session, card_id, embedding_type)
            _require_dimension(session, len(floats))
            session.execute(
                sa.insert(vector_embeddings).values(
                    card_id=card_id,
                    embedding_type=embedding_type,
                    vector_data=json.dumps([float(number) for number in vector]),
                    vector_dimension=len(floats),
                    created_at=datetime.now(UTC),
                )
            )
            vector_search.create(session.connection(), checkfirst=True)
            _add(session, card_id, embedding_type, floats)

    def get(self, card_id: int, embedding_type: str) -> Embedding:
        """Read the vector of a side.

        Raises:
            NotFound: there is none.
            Unreadable: its text is not a vector.
            Refused: the type is not front, back or combined.
        """
        _require_type(embedding_type)
        with self._databases.get_sqlite_session() as session:
            query = sa.select(vector_embeddings).where(*_side(_stored, card_id, embedding_type))
            row = session.execute(query.order_by(_stored.id.desc())).mappings().first()
        if row is None:
            raise NotFound(
                f"Card {card_id} has no {embedding_type} vector", remedy="Store one first"
            )
        return Embedding(
            card_id=card_id,
            embedding_type=row["embedding_type"],
            vector=_numbers(row),
            created_at=row["created_at"],
        )

    def search(
        self, vector: Sequence[float], *, limit: int = 10, embedding_type: str | None = None
    ) -> tuple[Match, ...]:
        """The vectors with the closest direction, closest first.

        Args:
            vector: finite numbers, not all zero, as many as in the stored vectors.
            limit: the most matches, 1 to 500.
            embedding_type: only front, back or combined.

        Raises:
            Refused: the vector, the limit or the type is invalid, or vector_search is missing.
        """
        return self._nearest(vector, limit=limit, embedding_type=embedding_type, without=None)

    def similar_to(
        self, card_id: int, *, limit: int = 10, embedding_type: EmbeddingType = "combined"
    ) -> tuple[Match, ...]:
        """Other cards with the most similar side, closest first.

        Args:
            card_id: the card; the result does not contain it.
            limit: the most matches, 1 to 500.
            embedding_type: the side to compare.

        Raises:
            NotFound: the card has no such vector.
            Unreadable: its text is not a vector.
            Refused: the limit or the type is invalid, or vector_search is missing.
        """
        vector = self.get(card_id, embedding_type).vector
        return self._nearest(vector, limit=limit, embedding_type=embedding_type, without=card_id)

    def delete(self, card_id: int, embedding_type: str) -> None:
        """Delete the vector of a side from both tables.

        Raises:
            NotFound: there is none.
            Refused: the type is not front, back or combined.
        """
        _require_type(embedding_type)
        with self._databases.get_sqlite_session(write=True) as session:
            if not _remove(session, card_id, embedding_type):
                raise NotFound(
                    f"Card {card_id} has no {embedding_type} vector",
                    remedy="Nothing was changed; check the card and the type",
                )

    def rebuild(self) -> Rebuilt:
        """Rebuild vector_search from the newest vector of each side of a card.

        Vectors of deleted cards are left out.
        """
        newest = sa.select(sa.func.max(_stored.id)).group_by(
            _stored.card_id, _stored.embedding_type
        )
        cards = sa.select(anki_cards.c.id)
        query = sa.select(vector_embeddings).where(
            _stored.id.in_(newest), _stored.card_id.in_(cards)
        )
        filled, unreadable = 0, []
        with self._databases.get_sqlite_session(write=True) as session:
            vector_search.create(session.connection(), checkfirst=True)
            session.execute(sa.delete(vector_search))
            for row in session.execute(query.order_by(_stored.id)).mappings():
                try:
                    floats = _floats(_numbers(row))
                except (Unreadable, Refused):
                    unreadable.append(row["id"])
                else:
                    _add(session, row["card_id"], row["embedding_type"], floats)
                    filled += 1
        return Rebuilt(filled=filled, unreadable=tuple(unreadable))

    def _nearest(
        self,
        vector: Sequence[float],
        *,
        limit: int,
        embedding_type: str | None,
        without: int | None,
    ) -> tuple[Match, ...]:
        floats = _floats(vector)
        if not 1 <= limit <= MAX_PAGE:
            raise Refused(f"The limit of matches cannot be {limit}", remedy=f"Use 1 to {MAX_PAGE}")
        # Vectors of earlier versions with another length, or zero, have no distance.
        comparable = sa.func.length(_searched.vector) == floats.itemsize * len(floats)
        cosine = sa.func.vec_distance_cosine(_searched.vector, floats.tobytes())
        distance = sa.case((comparable, cosine)).label("distance")
        query = (
            sa.select(_searched.card_id, _searched.embedding_type, distance)
            .where(distance.is_not(None))
            .order_by(distance, _searched.card_id, _searched.embedding_type)
            .limit(limit)
        )
        if embedding_type is not None:
            _require_type(embedding_type)
            query = query.where(_searched.embedding_type == embedding_type)
        if without is not None:
            query = query.where(_searched.card_id != without)
        with self._databases.get_sqlite_session(snapshot=True) as session:
            if not _is_searchable(session):
                raise Refused("The table vector_search is missing", remedy="Call rebuild() once")
            _require_dimension(session, len(floats))
            return tuple(Match(**row) for row in session.execute(query).mappings())


def _require_type(embedding_type: str) -> None:
    known = get_args(EmbeddingType)
    if embedding_type not in known:
        raise Refused(
            f"There is no embedding type {embedding_type!r}",
            remedy=f"Use one of {', '.join(known)}",
        )


def _floats(vector: Sequence[float]) -> "array[float]":
    """The vector as 32-bit floats, which sqlite-vec compares."""
    try:
        floats = array("f", vector)
    except (TypeError, OverflowError) as error:
        raise Refused(
            f"The vector does not consist of numbers ({error})", remedy="Correct the vector"
        ) from error
    if not all(map(math.isfinite, floats)):
        raise Refused(
            "The vector contains a number that is not finite", remedy="Correct the vector"
        )
    if not any(floats):
        raise Refused(
            "The vector is empty or zero, so it has no direction", remedy="Correct the vector"
        )
    return floats


def _numbers(row: sa.RowMapping) -> tuple[float, ...]:
    """The vector in the text of a row of vector_embeddings."""
    try:
        vector = _VECTOR.validate_json(str(row["vector_data"]), strict=True)
    except ValidationError as error:
        problem = f"vector_data is not a JSON array of finite numbers ({error.errors()[0]['msg']})"
        raise Unreadable.of("vector_embeddings", row["id"], problem) from error
    if len(vector) != row["vector_dimension"]:
        problem = f"vector_data has {len(vector)} numbers instead of {row['vector_dimension']}"
        raise Unreadable.of("vector_embeddings", row["id"], problem)
    return vector


def _require_dimension(session: Session, dimension: int) -> None:
    stored = session.scalar(
        sa.select(_stored.vector_dimension).order_by(_stored.id.desc()).limit(1)
    )
    if stored not in (None, dimension):
        raise Refused(
            f"The vector has {dimension} numbers, but the stored ones have {stored}",
            remedy="Use the model of the stored vectors, or delete those first",
        )


def _side(table: Any, card_id: int, embedding_type: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.card_id == card_id, table.embedding_type == embedding_type


def _is_searchable(session: Session) -> bool:
    return sa.inspect(session.connection()).has_table(vector_search.name)


def _remove(session: Session, card_id: int, embedding_type: str) -> bool:
    """Delete the vector of a side; returns whether there was one."""
    deletion = sa.delete(vector_embeddings).where(*_side(_stored, card_id, embedding_type))
    found = session.execute(deletion.returning(_stored.id)).all()
    if _is_searchable(session):
        session.execute(sa.delete(vector_search).where(*_side(_searched, card_id, embedding_type)))
    return bool(found)


def _add(session: Session, card_id: int, embedding_type: str, floats: "array[float]") -> None:
    session.execute(
        sa.insert(vector_search).values(
            card_id=card_id, embedding_type=embedding_type, vector=floats.tobytes()
        )
    )
