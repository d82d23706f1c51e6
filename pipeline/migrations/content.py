"""The learning application: the four tables that move to PostgreSQL, with search and Anki.

The declarations are the schema of the target and equal the planned DDL. They are in the order of
the move: a table comes after the tables that it refers to. Rules of tables and columns add what DDL
does not cover.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared import access
from pipeline.declared.columns import integer_id, moment, reference
from pipeline.declared.rules import ColumnRules, SharedRules, TableRules
from pipeline.migrations.content_sample import make_sample
from pipeline.migrations.declaration import NAMES, Anki, Migration, Search

metadata = sa.MetaData(naming_convention=NAMES, info=SharedRules(access=access.DEFAULT).info)


def _id() -> sa.Column[int]:
    return integer_id("Unchanged by the migration; files and cards are named after it.")


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
    moment("created_at", "When the content was created.", now=True),
    moment("updated_at", "When the content last changed.", now=True),
    info=TableRules(
        "Words and phrases with translation and pronunciation.",
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
    moment("created_at", "When the fragment was created.", now=True),
    moment("updated_at", "When the fragment last changed.", now=True),
    reference("learning_content_id", "learning_content", nullable=True),
    info=TableRules(
        "Examples, meanings and tips for a content.",
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
    reference("fragment_id", "content_fragments", nullable=True),
    sa.Column("asset_type", sa.String(20), nullable=False),
    sa.Column(
        "asset_data",
        sa.LargeBinary,
        nullable=False,
        info=ColumnRules(
            "The file. It is already compressed, so PostgreSQL does not compress it.",
            storage="EXTERNAL",
        ).info,
    ),
    sa.Column("asset_metadata", JSONB),
    moment("created_at", "When the file was created or replaced.", now=True),
    sa.Column("created_by", sa.String(100)),
    info=TableRules(
        "Audio, images and videos of the fragments.",
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
    reference("fragment_id", "content_fragments", nullable=True),
    reference("asset_id", "fragment_assets", nullable=True),
    sa.Column("rank_score", sa.Numeric(3, 2), server_default=sa.text("0.0")),
    sa.Column("assessed_by", sa.String(100), nullable=False),
    sa.Column("assessment_notes", sa.Text),
    moment("created_at", "When the rating was created.", now=True),
    moment("updated_at", "When the rating last changed.", now=True),
    info=TableRules(
        "Ratings of fragments and assets, 0 to 5.",
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
    stays=("anki_cards", "vector_embeddings", "vector_search"),
    plain=True,
)
"""The learning application; its assets, jobs and commands have plain names."""
