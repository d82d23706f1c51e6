"""Columns and constraints that declarations of tables have in common."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared.rules import ColumnRules


def integer_id(description: str) -> sa.Column[int]:
    """The primary key ``id`` as an integer."""
    return sa.Column("id", sa.Integer, primary_key=True, info=ColumnRules(description).info)


def text_id() -> sa.Column[str]:
    """The primary key ``id`` as text."""
    description = "Unchanged by the migration."
    return sa.Column("id", sa.Text, primary_key=True, info=ColumnRules(description).info)


def reference(
    name: str, parent: str, *, nullable: bool = False, ondelete: str = "CASCADE"
) -> sa.Column[int]:
    """A foreign key to the integer ``id`` of a parent."""
    return sa.Column(
        name,
        sa.Integer,
        sa.ForeignKey(f"{parent}.id", ondelete=ondelete),
        nullable=nullable,
        info=ColumnRules(f"The parent row in {parent}.").info,
    )


def text(
    name: str, *, nullable: bool = False, unique: bool | None = None, default: str | None = None
) -> sa.Column[str]:
    """A text of any length."""
    return sa.Column(name, sa.Text, nullable=nullable, unique=unique, server_default=default)


def secret(
    name: str,
    description: str = "A secret, moved unchanged and never displayed.",
    *,
    nullable: bool = False,
    unique: bool | None = None,
) -> sa.Column[str]:
    """A text that is never displayed."""
    info = ColumnRules(description, secret=True).info
    return sa.Column(name, sa.Text, nullable=nullable, unique=unique, info=info)


def double_encoded_json(name: str, description: str) -> sa.Column[Any]:
    """JSON that the application may have written as a string within JSON."""
    return sa.Column(name, JSONB, info=ColumnRules(description, double_encoded=True).info)


def moment(
    name: str, description: str, *, nullable: bool = True, now: bool = False
) -> sa.Column[Any]:
    """A date and time; ``now`` makes the current time its default."""
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=nullable,
        server_default=sa.text("now()") if now else None,
        info=ColumnRules(description).info,
    )


def created_at() -> sa.Column[Any]:
    """The time of a row's creation."""
    return moment("created_at", "When the row was created.", nullable=False, now=True)


def updated_at() -> sa.Column[Any]:
    """The time of a row's last change, for tables with a ``stamp``."""
    description = "When the row last changed; set by a trigger."
    return moment("updated_at", description, nullable=False, now=True)


def require_one_of(table: sa.Table, column: str, *values: str) -> None:
    """Add a CHECK that allows only these values."""
    table.append_constraint(sa.CheckConstraint(table.c[column].in_(values), name=column))


def add_index(table: sa.Table, name: str, *columns: str) -> None:
    """Add an index; PostgreSQL creates none for foreign keys."""
    sa.Index(f"idx_{name}", *(table.c[column] for column in columns))
