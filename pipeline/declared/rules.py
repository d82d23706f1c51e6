"""What is declared of tables and columns beyond what SQLAlchemy has a word for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import sqlalchemy as sa

if TYPE_CHECKING:
    from pipeline.declared.access import Access
    from pipeline.declared.events import Told
    from pipeline.declared.objects import Function

_KEY = "rules"


class _Rules:
    @classmethod
    def of(cls, declared: "sa.MetaData | sa.Table | sa.Column[Any]") -> Self:
        """The rules of what is declared; the default ones where it has none."""
        found: Self | None = declared.info.get(_KEY)
        return cls() if found is None else found

    @property
    def info(self) -> dict[str, Any]:
        """The rules as SQLAlchemy's ``info`` holds them."""
        return {_KEY: self}


@dataclass(frozen=True)
class TableRules(_Rules):
    """What is declared of a table.

    Attributes:
        description: what its rows are, for people.
        changed_by: the column that tells when a row changed.
        stamp: the column that a trigger of the target sets to the moment of each update.
        told: what is published of it, see ``events``; None for nothing.
        access: who may do what with it; where it is empty, what all tables have.
        migration: of the ledger: the migration whose rows are all that it has.
    """

    description: str = ""
    changed_by: str | None = None
    stamp: str | None = None
    told: "Told | None" = None
    access: "tuple[Access, ...]" = ()
    migration: str | None = None


@dataclass(frozen=True)
class ColumnRules(_Rules):
    """What is declared of a column.

    Attributes:
        description: what its values are, for people.
        storage: PostgreSQL's storage mode, if it is another than the type's.
        secret: its values are shown nowhere.
        double_encoded: the application may have written its JSON as a string within JSON.
        added: only the target has it.
    """

    description: str | None = None
    storage: str | None = None
    secret: bool = False
    double_encoded: bool = False
    added: bool = False


@dataclass(frozen=True)
class SharedRules(_Rules):
    """What is declared of all tables of a MetaData.

    Attributes:
        access: who may do what with those that do not say it themselves.
        moments: ``iso``: the application writes dates as JavaScript's Date does.
        functions: what policies of these tables call.
    """

    access: "tuple[Access, ...]" = ()
    moments: Literal["iso"] | None = None
    functions: "tuple[Function, ...]" = ()
