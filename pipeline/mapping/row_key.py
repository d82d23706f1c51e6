"""The key that identifies the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.quoting import quoted


class KeyNotSupported(PipelineError):
    """A table whose rows are not identified by one column of integers or texts."""


@dataclass(frozen=True)
class RowKey:
    """The columns of a primary key, in its order; currently there is exactly one."""

    columns: tuple[sa.Column[Any], ...]

    @classmethod
    def of(cls, table: sa.Table) -> Self:
        """The key of a declared table.

        Raises:
            KeyNotSupported: the key has no column, several, or neither integers nor texts.
        """
        columns = tuple(table.primary_key.columns)
        if len(columns) != 1:
            names = [column.name for column in columns]
            raise KeyNotSupported(
                f"Table {table.name} is declared with {description(names)}",
                remedy="Declare one column as its primary key; nothing was changed",
            )
        if not isinstance(columns[0].type, sa.Integer | sa.String):
            raise KeyNotSupported(
                f"Table {table.name} is declared with the primary key {columns[0].name} of type"
                f" {columns[0].type}, and only integers and texts identify rows",
                remedy="Declare a column of integers or texts as its key; nothing was changed",
            )
        return cls(columns)

    @property
    def column(self) -> sa.Column[Any]:
        """The one column."""
        (column,) = self.columns
        return column

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name

    @property
    def sql(self) -> str:
        """The column's name, quoted."""
        return quoted(self.name)


def description(columns: Sequence[str]) -> str:
    """Describe an unsupported primary key."""
    if not columns:
        return "no primary key, so its rows cannot be identified"
    return f"a primary key of {len(columns)} columns ({', '.join(columns)}), which is not supported"
