"""The tables that stay in SQLite: Anki cards, and the vectors made of them.

The declarations are the application's own schema. Dates are text: what the application and its
earlier versions wrote is read in any ISO form and taken as UTC where it names no zone; what is
written has the application's form. Keys between the tables are not enforced by SQLite here, nor
can one be to PostgreSQL, where the contents are.
"""

from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from pipeline.declared.rules import ColumnRules, TableRules

metadata = sa.MetaData()

_FORM = "%Y-%m-%d %H:%M:%S.%f"


class Moment(sa.types.TypeDecorator[datetime]):
    """A moment in UTC, kept as text like ``2025-08-06 03:07:13.716509``."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:  # noqa: ARG002
        """An aware moment as the application writes it."""
        return None if value is None else value.astimezone(timezone.utc).strftime(_FORM)  # noqa: UP017

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:  # noqa: ARG002
        """A moment with its zone; None where the text is no date."""
        try:
            met = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None
        aware = met.replace(tzinfo=timezone.utc) if met.tzinfo is None else met  # noqa: UP017
        return aware.astimezone(timezone.utc)  # noqa: UP017


_Json = sa.JSON(none_as_null=True)

anki_cards = sa.Table(
    "anki_cards",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("anki_note_id", sa.Integer, unique=True),
    sa.Column("deck_name", sa.String(255), nullable=False),
    sa.Column("tags", _Json),
    sa.Column("created_at", Moment),
    sa.Column("updated_at", Moment),
    sa.Column("learning_content_id", sa.Integer),
    sa.Column("export_hash", sa.Text),
    info=TableRules("Which content is which note in Anki, and what was last exported of it.").info,
)

vector_embeddings = sa.Table(
    "vector_embeddings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("card_id", sa.Integer, sa.ForeignKey("anki_cards.id"), nullable=False),
    sa.Column("embedding_type", sa.String(50), nullable=False),
    sa.Column("vector_data", sa.Text, info=ColumnRules("A JSON array of numbers.").info),
    sa.Column("vector_dimension", sa.Integer, nullable=False),
    sa.Column("created_at", Moment),
    info=TableRules("What a card means, as numbers: of its front, its back, or both.").info,
)

vector_search = sa.Table(
    "vector_search",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("card_id", sa.Integer, nullable=False),
    sa.Column("embedding_type", sa.String(50), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    info=TableRules("The embeddings again, as 32-bit floats that sqlite-vec can search.").info,
)
