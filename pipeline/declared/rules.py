"""Rules of tables and columns that SQLAlchemy has no attribute for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import sqlalchemy as sa

if TYPE_CHECKING:
    from pipeline.declared.access import Access
    from pipeline.declared.events import PublishedChanges
    from pipeline.declared.functions import Function

_KEY = "rules"


class _Rules:
    @classmethod
    def of(cls, declared: "sa.MetaData | sa.Table | sa.Column[Any]") -> Self:
        """The rules of a declared object; the defaults if it has none."""
        found: Self | None = declared.info.get(_KEY)
        return cls() if found is None else found

    @property
    def info(self) -> dict[str, Any]:
        """The rules for SQLAlchemy's ``info``."""
        return {_KEY: self}


@dataclass(frozen=True)
class TableRules(_Rules):
    """The rules of a table.

    Attributes:
        description: the meaning of its rows, for people.
        changed_by: the column with the time of a row's last change.
        stamp: the column that a trigger of the target sets to the time of each update.
        published: its published changes; None if it is not published.
        access: privileges on it; if empty, those of all tables apply.
        camel_case: the source may write names of columns in camelCase.
        migration: for a ledger table: the only migration with rows in it.
    """

    description: str = ""
    changed_by: str | None = None
    stamp: str | None = None
    published: "PublishedChanges | None" = None
    access: "tuple[Access, ...]" = ()
    camel_case: bool = False
    migration: str | None = None


@dataclass(frozen=True)
class ColumnRules(_Rules):
    """The rules of a column.

    Attributes:
        description: the meaning of its values, for people.
        storage: PostgreSQL's storage mode, if it is not the default of the type.
        secret: its values are never shown.
        double_encoded: the application may have written its JSON as a string within JSON.
        added: only the target has the column.
        source_name: its name in the source, if PostgreSQL cannot use that.
    """

    description: str | None = None
    storage: str | None = None
    secret: bool = False
    double_encoded: bool = False
    added: bool = False
    source_name: str | None = None


@dataclass(frozen=True)
class SharedRules(_Rules):
    """The rules of all tables of a MetaData.

    Attributes:
        access: privileges on tables without their own.
        moments: ``iso``: the application writes dates in the format of JavaScript's Date.
        functions: functions that policies of these tables call.
    """

    access: "tuple[Access, ...]" = ()
    moments: Literal["iso"] | None = None
    functions: "tuple[Function, ...]" = ()
