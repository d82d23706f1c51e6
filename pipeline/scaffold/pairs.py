"""A declared table beside the source's, with columns matched as a move matches them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.policies import Policies
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.matching import SourceColumn, folded, resolved, with_forms
from pipeline.sqlite.structure.model import Column, Table


@dataclass(frozen=True)
class Pair:
    """A declared table and the source's.

    Attributes:
        declared: with the forms that a policy gives to its columns.
        names: the source's name of each declared column that the source has.
    """

    declared: sa.Table
    source: Table
    names: Mapping[str, str]

    @classmethod
    def of(cls, declared: sa.Table, source: Table, policies: Policies) -> "Pair":
        """Match two tables.

        Raises:
            SettingsError: a policy names a column that the source lacks, or an unsuitable form.
        """
        there = [SourceColumn(column.name, column.declared) for column in source.columns]
        found = resolved(declared, there, policies)
        names = {name: column.name for name, column in found.items()}
        return cls(with_forms(declared, policies), source, names)

    def columns(self) -> Iterator[tuple[sa.Column[Any], Column]]:
        """The columns that both have."""
        for name, theirs in self.names.items():
            yield self.declared.columns[name], self.source.column(theirs)

    def missing(self) -> Iterator[sa.Column[Any]]:
        """Declared columns that the source should have, and lacks."""
        for column in self.declared.columns:
            if column.name not in self.names and not ColumnRules.of(column).added:
                yield column

    def undeclared(self) -> Iterator[Column]:
        """Columns that only the source has."""
        taken = {folded(name) for name in self.names.values()}
        for column in self.source.columns:
            if folded(column.name) not in taken:
                yield column
