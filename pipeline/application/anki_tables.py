"""The tables that stay in SQLite: Anki cards, and the vectors made of them.

The declarations are the application's own schema. Dates are text: any ISO format is read, as UTC if
it has no zone, and the application's format is written. SQLite does not enforce the foreign keys
between these tables, and there can be none to the contents in PostgreSQL.
"""

from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from pipeline.declared.rules import ColumnRules, TableRules

metadata = sa.MetaData()

_FORM = "%Y-%m-%d %H:%M:%S.%f"


class Moment(sa.types.TypeDecorator[datetime]):
    """A timestamp in UTC, stored as text like ``2025-08-06 03:07:13.716509``."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:  # noqa: ARG002
        """A timestamp with zone, in the application's format."""
        return None if value is None else value.astimezone(timezone.utc).strftime(_FORM)  # noqa: UP017

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:  # noqa: ARG002
        """A timestamp with zone; None if the text is not a date."""
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None
        aware = found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found  # noqa: UP017
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
    info=TableRules("Maps contents to notes in Anki, with the hash of the last export.").info,
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
    info=TableRules("Embeddings of cards: of the front, the back, or both.").info,
)

vector_search = sa.Table(
    "vector_search",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("card_id", sa.Integer, nullable=False),
    sa.Column("embedding_type", sa.String(50), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    info=TableRules("The same embeddings as 32-bit floats, which sqlite-vec can search.").info,
)
