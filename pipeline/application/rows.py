"""Rows of declared tables: one read, written, deleted, or a page of them.

Every function works within a session of its caller and commits nothing.
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
    """What makes a row of a table its model.

    It raises Unreadable, which names the row, when that holds something that its model does not.
    """

    def read(row: Mapping[Any, Any]) -> M:
        try:
            return model.model_validate(dict(row))
        except ValidationError as error:
            raise Unreadable.by_model(table.name, row["id"], error) from error

    return read


def checked(model: type[M], **values: Any) -> M:
    """A model of values that came one by one.

    Raises:
        Refused: one of them is not what the model takes.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise Refused.by_model(error, where=model.__name__) from error


def one(session: Session, query: sa.Select[Any], *, table: sa.Table, number: int) -> sa.RowMapping:
    """The row of a query that has this id.

    Raises:
        NotFound: there is none.
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
    """Part of what a query finds, ordered, and how much it finds; want a snapshot for both.

    Raises:
        Refused: limit is not 1 to 500, or offset is negative.
        Unreadable: a row holds something that cannot be read.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Refused(f"A page cannot have {limit} rows", remedy=f"Take a limit of 1 to {MAX_PAGE}")
    if not 0 <= offset <= _BIGGEST:
        raise Refused(f"A page cannot begin after {offset} rows", remedy="Count from 0")
    total = session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    found = session.execute(query.order_by(*order).limit(limit).offset(offset)).mappings()
    items = tuple(read(row) for row in found)
    return Page(items=items, total=total, limit=limit, offset=offset)


def insert(session: Session, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Write a new row.

    Returns:
        its id.
    """
    made = session.execute(sa.insert(table).values(**values).returning(table.c.id))
    return int(made.scalar_one())


def update(session: Session, payload: Input, number: int, *, now: Any) -> None:
    """Write the fields that are set, and when; without any, nothing changes.

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
    """Delete a row; what refers to it goes by cascade where the database knows one.

    Raises:
        NotFound: there is no row with this id.
    """
    gone = session.execute(sa.delete(table).where(table.c.id == number).returning(table.c.id))
    if gone.first() is None:
        raise NotFound.of(table.name, number)
