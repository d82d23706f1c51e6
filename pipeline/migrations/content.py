"""The learning application: the four tables that move to PostgreSQL, and what hangs beside them.

The declarations are the target's schema, word for word the plan's DDL. Their order is the order
of the move: a table comes after every table that it refers to. What goes beyond DDL is in the rules
of a table and its columns.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared import access
from pipeline.declared.rules import ColumnRules, SharedRules, TableRules
from pipeline.migrations.content_sample import make_sample
from pipeline.migrations.declaration import NAMES, Anki, Migration, Search

metadata = sa.MetaData(naming_convention=NAMES, info=SharedRules(access=access.DEFAULT).info)


def _moment(name: str, description: str) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("now()"),
        info=ColumnRules(description).info,
    )


def _id() -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.Integer,
        primary_key=True,
        info=ColumnRules("Survives the move; files and cards are named after it.").info,
    )


def _refers_to(name: str, parent: str) -> sa.Column[int]:
    return sa.Column(
        name,
        sa.Integer,
        sa.ForeignKey(f"{parent}.id", ondelete="CASCADE"),
        info=ColumnRules(f"The row of {parent} that this one belongs to.").info,
    )


learning_content = sa.Table(
    "learning_content",
    metadata,
    _id(),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("content_type", sa.String(50), nullable=False),
    sa.Column("language", sa.String(10), nullable=False, server_default="thai"),
    sa.Column("native_text", sa.Text, nullable=False),
    sa.Column("translation", sa.Text, nullable=False),
    sa.Column("ipa", sa.Text, nullable=False),
    sa.Column("difficulty_level", sa.Integer),
    sa.Column("tags", JSONB, info=ColumnRules("A list of strings.").info),
    sa.Column("content_metadata", JSONB),
    _moment("created_at", "When the content was written."),
    _moment("updated_at", "When the content last changed."),
    info=TableRules(
        "What is learned: a word or phrase, its translation and its sound.",
        changed_by="updated_at",
    ).info,
)
sa.Index("idx_learning_content_type", learning_content.c.content_type)
sa.Index("idx_learning_content_language", learning_content.c.language)
sa.Index("idx_learning_content_title", learning_content.c.title)
sa.Index("idx_learning_content_tags", learning_content.c.tags, postgresql_using="gin")
sa.Index(
    "idx_learning_content_metadata", learning_content.c.content_metadata, postgresql_using="gin"
)

content_fragments = sa.Table(
    "content_fragments",
    metadata,
    _id(),
    sa.Column("native_text", sa.Text, nullable=False),
    sa.Column("body_text", sa.Text, nullable=False),
    sa.Column("ipa", sa.Text),
    sa.Column("extra", sa.Text),
    sa.Column("fragment_type", sa.String(50), nullable=False),
    sa.Column("fragment_metadata", JSONB),
    _moment("created_at", "When the fragment was written."),
    _moment("updated_at", "When the fragment last changed."),
    _refers_to("learning_content_id", "learning_content"),
    info=TableRules(
        "Examples, meanings and tips that belong to a content.",
        changed_by="updated_at",
    ).info,
)
sa.Index("idx_fragment_type", content_fragments.c.fragment_type)
sa.Index("idx_fragment_text", content_fragments.c.native_text)
sa.Index("idx_fragment_content", content_fragments.c.learning_content_id)

fragment_assets = sa.Table(
    "fragment_assets",
    metadata,
    _id(),
    _refers_to("fragment_id", "content_fragments"),
    sa.Column("asset_type", sa.String(20), nullable=False),
    sa.Column(
        "asset_data",
        sa.LargeBinary,
        nullable=False,
        info=ColumnRules(
            "The file itself. Compressed already, so PostgreSQL does not try.",
            storage="EXTERNAL",
        ).info,
    ),
    sa.Column("asset_metadata", JSONB),
    _moment("created_at", "When the file was made; making it anew moves it forward."),
    sa.Column("created_by", sa.String(100)),
    info=TableRules(
        "Audio, images and videos of the fragments, kept in the database.",
        changed_by="created_at",
    ).info,
)
fragment_assets.append_constraint(
    sa.CheckConstraint(
        fragment_assets.c.asset_type.in_(["audio", "image", "video"]), name="asset_type"
    )
)
sa.Index("idx_fragment_asset_type", fragment_assets.c.fragment_id, fragment_assets.c.asset_type)
sa.Index("idx_fragment_asset_created", fragment_assets.c.created_at)

rankings = sa.Table(
    "rankings",
    metadata,
    _id(),
    _refers_to("fragment_id", "content_fragments"),
    _refers_to("asset_id", "fragment_assets"),
    sa.Column("rank_score", sa.Numeric(3, 2), server_default=sa.text("0.0")),
    sa.Column("assessed_by", sa.String(100), nullable=False),
    sa.Column("assessment_notes", sa.Text),
    _moment("created_at", "When the rating was given."),
    _moment("updated_at", "When the rating last changed."),
    info=TableRules(
        "Ratings of fragments and of their assets, 0 to 5.",
        changed_by="updated_at",
    ).info,
)
rankings.append_constraint(
    sa.CheckConstraint(
        sa.and_(rankings.c.rank_score >= sa.text("0.0"), rankings.c.rank_score <= sa.text("5.0")),
        name="rank_score",
    )
)
sa.Index("idx_rankings_fragment", rankings.c.fragment_id)
sa.Index("idx_rankings_asset", rankings.c.asset_id)
sa.Index("idx_rankings_score", rankings.c.rank_score.desc())

CONTENT = Migration(
    "content",
    metadata,
    setting="SQLITE_DATABASE_URL",
    make_sample=make_sample,
    owners=("team:learning-content",),
    beside=(Search((learning_content, content_fragments)), Anki()),
    plain=True,
)
"""The learning application; what it had before there was another one keeps its plain names."""
