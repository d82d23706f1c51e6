"""Reads, writes and deletes rows of declared tables, and reads pages of rows.

Every function works within the session of its caller, and commits nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import Session

from pipeline.application.errors import NotFound, Refused, Unreadable
from pipeline.application.fields import MAX_PAGE
from pipeline.application.models import Frozen, Input, Page

M = TypeVar("M", bound=Frozen)
_BIGGEST = 2**63 - 1


def reading(model: type[M], table: sa.Table) -> Callable[[Mapping[Any, Any]], M]:
    """A function that converts a row of a table to its model.

    It raises Unreadable, which names the row, if the model refuses a value.
    """

    def read(row: Mapping[Any, Any]) -> M:
        try:
            return model.model_validate(dict(row))
        except ValidationError as error:
            raise Unreadable.by_model(table.name, row["id"], error) from error

    return read


def checked(model: type[M], **values: Any) -> M:
    """A model of separate values.

    Raises:
        Refused: the model refuses a value.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise Refused.by_model(error, where=model.__name__) from error


def one(session: Session, query: sa.Select[Any], *, table: sa.Table, number: int) -> sa.RowMapping:
    """The row of a query with this id.

    Raises:
        NotFound: it does not exist.
    """
    row = session.execute(query.where(table.c.id == number)).mappings().first()
    if row is None:
        raise NotFound.of(table.name, number)
    return row


def page_of(
    session: Session,
    query: sa.Select[Any],
    read: Callable[[Mapping[Any, Any]], M],
    *,
    order: Sequence[sa.ColumnElement[Any]],
    limit: int,
    offset: int,
) -> Page[M]:
    """A page of a query's rows, with their total; use a snapshot, so that both agree.

    Raises:
        Refused: limit is not 1 to 500, or offset is out of range.
        Unreadable: a value of a row is invalid.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Refused(f"A page cannot have {limit} rows", remedy=f"Use a limit of 1 to {MAX_PAGE}")
    if not 0 <= offset <= _BIGGEST:
        raise Refused(
            f"A page cannot have the offset {offset}", remedy="Use an offset of 0 or more"
        )
    total = session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    found = session.execute(query.order_by(*order).limit(limit).offset(offset)).mappings()
    items = tuple(read(row) for row in found)
    return Page(items=items, total=total, limit=limit, offset=offset)


def insert(session: Session, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Insert a row; returns its id."""
    inserted = session.execute(sa.insert(table).values(**values).returning(table.c.id))
    return int(inserted.scalar_one())


def update(session: Session, payload: Input, number: int, *, now: Any) -> None:
    """Write the fields that are set, and updated_at; without such fields change nothing.

    Raises:
        NotFound: there is no row with this id.
    """
    table, values = payload.table, payload.values()
    if not values:
        one(session, sa.select(table.c.id), table=table, number=number)
        return
    changed = sa.update(table).where(table.c.id == number).values(**values, updated_at=now)
    if session.execute(changed.returning(table.c.id)).first() is None:
        raise NotFound.of(table.name, number)


def delete(session: Session, table: sa.Table, number: int) -> None:
    """Delete a row; the database cascades to rows that refer to it.

    Raises:
        NotFound: there is no row with this id.
    """
    deleted = session.execute(sa.delete(table).where(table.c.id == number).returning(table.c.id))
    if deleted.first() is None:
        raise NotFound.of(table.name, number)
