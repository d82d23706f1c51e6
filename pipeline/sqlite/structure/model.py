"""What a SQLite database declares, as values. Nothing here depends on PostgreSQL.

Names are those of the source without quotation marks, expressions those of the source without
comments.
"""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.mapping.matching import folded

Generated = Literal["virtual", "stored"]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        declared: its type, "" if there is none; blanks in it are single spaces.
        default: its default as SQL, None if there is none. If it is nothing but a name, such as
            ``x`` or ``"x"``, it is this text.
        collation: in upper case.
        generated: the kind of a generated column.
        expression: the expression of a generated column, as SQL.
    """

    name: str
    declared: str = ""
    not_null: bool = False
    default: str | None = None
    collation: str = "BINARY"
    generated: Generated | None = None
    expression: str | None = None


@dataclass(frozen=True)
class IndexPart:
    """A column or an expression of an index; one of the two is given."""

    column: str | None = None
    expression: str | None = None
    collation: str = "BINARY"
    descending: bool = False


@dataclass(frozen=True)
class Index:
    """An index that a statement created.

    Attributes:
        where: the condition of a partial index, as SQL.
    """

    name: str
    parts: tuple[IndexPart, ...]
    unique: bool = False
    where: str | None = None


@dataclass(frozen=True)
class Unique:
    """A UNIQUE constraint of a table that repeats neither another one nor the primary key.

    Attributes:
        collations: of its columns, in upper case.
    """

    columns: tuple[str, ...]
    collations: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key.

    Attributes:
        parent: the name of the referenced table as the parent declares it; as written if the
            database has no such table.
        parent_columns: the referenced columns; empty if the reference names none and the parent
            does not exist, or its primary key has another number of columns.
        on_delete: such as ``CASCADE``; ``NO ACTION`` is the default.
        deferred: checked at the end of a transaction.
    """

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    deferred: bool = False
    name: str | None = None


@dataclass(frozen=True)
class Check:
    """A CHECK constraint.

    Attributes:
        sql: its condition, without the outer parentheses.
    """

    sql: str
    name: str | None = None


@dataclass(frozen=True)
class Table:
    """An ordinary table.

    Attributes:
        primary_key: names of its columns, in order; empty if there is none. It may hold NULL in
            columns that are not ``not_null``, unless it is the rowid.
        key_collations: collations of these columns, in upper case.
        is_row_id: the primary key is the rowid (``INTEGER PRIMARY KEY``).
        autoincrement: ids are never assigned again.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    key_collations: tuple[str, ...] = ()
    is_row_id: bool = False
    autoincrement: bool = False
    without_rowid: bool = False
    strict: bool = False
    uniques: tuple[Unique, ...] = ()
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()

    def column(self, name: str) -> Column:
        """The column of a name, in any case."""
        return next(each for each in self.columns if folded(each.name) == folded(name))


@dataclass(frozen=True)
class VirtualTable:
    """A virtual table.

    Attributes:
        module: such as ``fts5``.
        sql: the statement that created it.
        shadows: names of the tables in which its module stores its data.
    """

    name: str
    module: str
    sql: str
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A view.

    Attributes:
        sql: the statement that created it.
        columns: their names; empty if SQLite cannot compute the view, see ``Schema.unreadable``.
    """

    name: str
    sql: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trigger:
    """A trigger of a table or view."""

    name: str
    table: str
    sql: str


@dataclass(frozen=True)
class Schema:
    """Everything that a database declares, in the order of its creation.

    Tables in which modules of virtual tables store their data, and SQLite's own tables, are left
    out of ``tables``.
    """

    tables: tuple[Table, ...] = ()
    virtual: tuple[VirtualTable, ...] = ()
    views: tuple[View, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    """Names of objects whose structure cannot be read, each with the reason.

    Views are nevertheless in ``views``; tables, indexes and triggers are left out.
    """
    unreadable_tables: frozenset[str] = frozenset()
    """Those of ``unreadable`` that are tables, whose rows cannot be read either."""

    def table(self, name: str) -> Table:
        """The table of a name, in any case."""
        return next(each for each in self.tables if folded(each.name) == folded(name))
