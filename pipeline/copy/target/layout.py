"""The tables of a copy in the target, without constraints, which follow the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from pipeline.copy.expressions.translate import TargetColumn
from pipeline.copy.source.reading import RowRange
from pipeline.copy.target.names import of_columns
from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import DIALECT
from pipeline.mapping.contract import Contract, column_rules
from pipeline.mapping.matching import folded
from pipeline.mapping.table_mapping import TableMapping
from pipeline.sqlite.structure.model import Table

PUBLIC = "public"


@dataclass(frozen=True)
class CopiedTable:
    """A table of the source, and what it becomes.

    Attributes:
        source: what SQLite declares.
        schema: the schema of the target.
        name: its name there.
        mapping: its columns, with the types that the census chose.
        rows: number of rows of the source.
        bytes: size of their values.
        ranges: the rows in batches.
        required: columns that are NOT NULL, by their names in the target.
        computed: expressions of generated columns, by their names in the target.
        checked: rows may hold values that the types do not take.
    """

    source: Table
    schema: str
    name: str
    mapping: TableMapping
    rows: int
    bytes: int
    ranges: tuple[RowRange, ...]
    required: frozenset[str] = frozenset()
    computed: Mapping[str, str] = field(default_factory=dict)
    checked: bool = False

    @property
    def place(self) -> str:
        """The table as SQL, with its schema."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def label(self) -> str:
        """The table in messages and in the ledger."""
        return self.label_of(self.schema, self.name)

    @staticmethod
    def label_of(schema: str, name: str) -> str:
        """A table in messages and in the ledger."""
        parts = [name] if schema == PUBLIC else [schema, name]
        # A dot within a name must not look like the one between two names.
        return ".".join(quoted(part) if set(part) & {".", '"'} else part for part in parts)

    @cached_property
    def names(self) -> dict[str, str]:
        """The name in the target of each column, by its name in the source."""
        return of_columns(self.source)

    @cached_property
    def targets(self) -> dict[str, TargetColumn]:
        """The columns of the target, by their folded names in the source."""
        kinds = self.mapping.table.columns
        return {
            folded(c.name): TargetColumn(
                self.names[c.name], kinds[self.names[c.name]].type, c.collation
            )
            for c in self.source.columns
        }

    def exact(self, name: str) -> str:
        """The name of a column as the source declares it, from a name in any case."""
        return self.source.column(name).name

    @property
    def written(self) -> list[str]:
        """Names of the columns that are copied; the server computes the others."""
        return [c.name for c in self.mapping.columns if c.name not in self.computed]

    @cached_property
    def contract(self) -> Contract:
        """What the types of the columns demand of a row."""
        rules = [
            (column.name, rule)
            for column in self.mapping.columns
            for rule in column_rules(self.mapping, column)
        ]
        return Contract(self.mapping, tuple(rules))

    def ddl(self, place: str | None = None, *, temporary: bool = False) -> str:
        """The statement that creates the table.

        Args:
            place: another table, as SQL.
            temporary: it ends with the transaction, and nothing in it is computed.
        """
        computed = {} if temporary else self.computed
        columns = ", ".join(self._column(column, computed) for column in self.mapping.columns)
        kind, end = ("TEMPORARY ", " ON COMMIT DROP") if temporary else ("", "")
        return f"CREATE {kind}TABLE {place or self.place} ({columns}){end}"

    def _column(self, column: sa.Column[Any], computed: Mapping[str, str]) -> str:
        parts = [quoted(column.name), column.type.compile(dialect=DIALECT)]
        if column.name in computed:
            parts.append(f"GENERATED ALWAYS AS ({computed[column.name]}) STORED")
        if column.name in self.required:
            parts.append("NOT NULL")
        return " ".join(parts)


def mapping_of(
    table: Table, name: str, kinds: Mapping[str, "sa.types.TypeEngine[Any]"]
) -> TableMapping:
    """The columns of a table with their types.

    Args:
        name: of the table in the target.
        kinds: types by name in the source.
    """
    names = of_columns(table)
    columns = [sa.Column(names[c.name], kinds[c.name], nullable=True) for c in table.columns]
    declared = {names[c.name]: c.declared for c in table.columns}
    others = {names[c.name]: c.name for c in table.columns if names[c.name] != c.name}
    made = sa.Table(name, sa.MetaData(), *columns)
    return TableMapping(made, tuple(made.columns), declared, (), source_names=others)


def listed(columns: Sequence[str]) -> str:
    """Names of columns as SQL."""
    return ", ".join(map(quoted, columns))
