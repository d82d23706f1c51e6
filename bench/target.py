"""The four target tables as in the original plan's DDL, first bare, then with keys.

A bare table has only columns and CHECK constraints; its primary key, indexes and foreign keys
follow after the data. `last_review_at` is not in the plan, but the source has it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A target table: DDL by column, definition by index, referenced table by column."""

    name: str
    columns: dict[str, str]
    indexes: dict[str, str]
    parents: dict[str, str]

    @property
    def create(self) -> str:
        """The statement that creates the bare table."""
        columns = ", ".join(f"{name} {ddl}" for name, ddl in self.columns.items())
        return f"CREATE TABLE {self.name} ({columns})"

    @property
    def keys(self) -> list[str]:
        """The statements that add the primary key, the plan's indexes and the foreign keys."""
        return [
            f"ALTER TABLE {self.name} ADD PRIMARY KEY (id)",
            *(f"CREATE INDEX {name} ON {self.name} {ddl}" for name, ddl in self.indexes.items()),
            *(
                f"ALTER TABLE {self.name} ADD FOREIGN KEY ({column}) "
                f"REFERENCES {parent}(id) ON DELETE CASCADE"
                for column, parent in self.parents.items()
            ),
        ]


_NOW = "timestamptz DEFAULT now()"

TABLES = (
    Table(
        "learning_content",
        {
            "id": "serial",
            "title": "varchar(200) NOT NULL",
            "content_type": "varchar(50) NOT NULL",
            "language": "varchar(10) NOT NULL DEFAULT 'thai'",
            "native_text": "text NOT NULL",
            "translation": "text NOT NULL",
            "ipa": "text NOT NULL",
            "difficulty_level": "integer",
            "tags": "jsonb",
            "content_metadata": "jsonb",
            "created_at": _NOW,
            "updated_at": _NOW,
            "last_review_at": "timestamptz",
        },
        {
            "idx_learning_content_type": "(content_type)",
            "idx_learning_content_language": "(language)",
            "idx_learning_content_title": "(title)",
            "idx_learning_content_tags": "USING gin (tags)",
            "idx_learning_content_metadata": "USING gin (content_metadata)",
        },
        {},
    ),
    Table(
        "content_fragments",
        {
            "id": "serial",
            "native_text": "text NOT NULL",
            "body_text": "text NOT NULL",
            "ipa": "text",
            "extra": "text",
            "fragment_type": "varchar(50) NOT NULL",
            "fragment_metadata": "jsonb",
            "created_at": _NOW,
            "updated_at": _NOW,
            "learning_content_id": "integer",
        },
        {
            "idx_fragment_type": "(fragment_type)",
            "idx_fragment_text": "(native_text)",
            "idx_fragment_content": "(learning_content_id)",
        },
        {"learning_content_id": "learning_content"},
    ),
    Table(
        "fragment_assets",
        {
            "id": "serial",
            "fragment_id": "integer",
            "asset_type": "varchar(20) NOT NULL CHECK (asset_type IN ('audio', 'image', 'video'))",
            "asset_data": "bytea NOT NULL",
            "asset_metadata": "jsonb",
            "created_at": _NOW,
            "created_by": "varchar(100)",
        },
        {
            "idx_fragment_asset_type": "(fragment_id, asset_type)",
            "idx_fragment_asset_created": "(created_at)",
        },
        {"fragment_id": "content_fragments"},
    ),
    Table(
        "rankings",
        {
            "id": "serial",
            "fragment_id": "integer",
            "asset_id": "integer",
            "rank_score": "numeric(3,2) DEFAULT 0.0 "
            "CHECK (rank_score >= 0.0 AND rank_score <= 5.0)",
            "assessed_by": "varchar(100) NOT NULL",
            "assessment_notes": "text",
            "created_at": _NOW,
            "updated_at": _NOW,
        },
        {
            "idx_rankings_fragment": "(fragment_id)",
            "idx_rankings_asset": "(asset_id)",
            "idx_rankings_score": "(rank_score DESC)",
        },
        {"fragment_id": "content_fragments", "asset_id": "fragment_assets"},
    ),
)
