"""The base of services on tables in PostgreSQL."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa

from pipeline.application import rows
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import Frozen, Page

M = TypeVar("M", bound=Frozen)


class TableService(Generic[M]):
    """Reads and writes the rows of one table.

    Every method is a transaction. All raise TargetError if PostgreSQL does not answer or refuses,
    Refused for an invalid value, and NotFound for an id that does not exist. Pages have ``limit``
    rows, 1 to 500, after the first ``offset``.

    Attributes:
        model: the type of its rows.
    """

    table: ClassVar[sa.Table]
    model: ClassVar[type[Any]]

    def __init__(self, databases: HybridDatabaseManager) -> None:
        """Use these databases; the caller closes them."""
        self._databases = databases

    def get(self, number: int) -> M:
        """Read a row by its id.

        Raises:
            Unreadable: its JSON does not have the declared form.
        """
        with self._databases.get_postgres_session() as session:
            return self._read(rows.one(session, self._query(), table=self.table, number=number))

    def delete(self, number: int) -> None:
        """Delete a row by its id, and the rows that refer to it."""
        with self._databases.get_postgres_session() as session:
            rows.delete(session, self.table, number)

    def _query(self) -> sa.Select[Any]:
        """The query of rows."""
        return sa.select(self.table)

    def _read(self, row: Any) -> M:
        converted: M = rows.reading(self.model, self.table)(row)
        return converted

    def _page(
        self,
        query: sa.Select[Any],
        order: Sequence[sa.ColumnElement[Any]] = (),
        *,
        limit: int,
        offset: int,
    ) -> Page[M]:
        """A page of a query; by id without ``order``."""
        order = order or (self.table.c.id,)
        with self._databases.get_postgres_session(snapshot=True) as session:
            return rows.page_of(session, query, self._read, order=order, limit=limit, offset=offset)
