"""What the services of PostgreSQL's tables have in common."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa

from pipeline.application import rows
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import Frozen, Page

M = TypeVar("M", bound=Frozen)


class TableService(Generic[M]):
    """Reads and writes the rows of one table.

    Every method is a transaction of its own. All raise TargetError when PostgreSQL does not answer
    or refuses, and Refused for a value that it does not take.

    Attributes:
        table: the table.
        model: what a row becomes.
    """

    table: ClassVar[sa.Table]
    model: ClassVar[type[Any]]

    def __init__(self, databases: HybridDatabaseManager) -> None:
        """Use these databases, which the caller closes."""
        self._databases = databases

    def get(self, number: int) -> M:
        """Read a row by its id.

        Raises:
            NotFound: there is none with this id.
            Unreadable: it holds JSON of another form than is declared.
        """
        with self._databases.get_postgres_session() as session:
            return self._read(rows.one(session, self._query(), table=self.table, number=number))

    def delete(self, number: int) -> None:
        """Delete a row by its id, and what refers to it.

        Raises:
            NotFound: there is none with this id.
        """
        with self._databases.get_postgres_session() as session:
            rows.delete(session, self.table, number)

    def _query(self) -> sa.Select[Any]:
        """What is read of a row."""
        return sa.select(self.table)

    def _read(self, row: Any) -> M:
        made: M = rows.reading(self.model, self.table)(row)
        return made

    def _page(
        self,
        query: sa.Select[Any],
        order: Sequence[sa.ColumnElement[Any]] = (),
        *,
        limit: int,
        offset: int,
    ) -> Page[M]:
        """Part of what a query finds; by id where no order is given."""
        order = order or (self.table.c.id,)
        with self._databases.get_postgres_session(snapshot=True) as session:
            return rows.page_of(session, query, self._read, order=order, limit=limit, offset=offset)
