"""What tells the rows of a table apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa

from pipeline.core.errors import PipelineError
from pipeline.core.quoting import quoted


class KeyNotSupported(PipelineError):
    """A table whose rows are not told apart by one column of their own."""


@dataclass(frozen=True)
class RowKey:
    """The columns of a table's primary key; for now there is exactly one.

    Attributes:
        columns: in the order of the key.
    """

    columns: tuple[sa.Column[Any], ...]

    @classmethod
    def of(cls, table: sa.Table) -> Self:
        """The key of a declared table.

        Raises:
            KeyNotSupported: it has no column, or several.
        """
        columns = tuple(table.primary_key.columns)
        if len(columns) != 1:
            raise KeyNotSupported(
                f"{table.name} is declared with {described([each.name for each in columns])}",
                remedy="Declare one column as its primary key; nothing was changed",
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


def described(columns: Sequence[str]) -> str:
    """A primary key that is not supported, for people."""
    if not columns:
        return "no primary key, so nothing tells its rows apart"
    return f"a primary key of {len(columns)} columns ({', '.join(columns)}), which is not supported"
