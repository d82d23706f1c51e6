"""A source whose contents have a moment of creation in a form of their own."""

from pathlib import Path
from typing import Any

from pipeline_tests.support.sources import CONTENT_DDL, SourceFile


def with_moments(path: Path, declared: str) -> SourceFile:
    """A source whose ``created_at`` has another declared type."""
    ddl = CONTENT_DDL.replace(
        "created_at DATETIME, updated_at DATETIME, last_review_at DATETIME",
        f"created_at {declared}, updated_at DATETIME",
    )
    return SourceFile.make(path / "forms.db", ddl)


def add_moment(source: SourceFile, key: int, value: Any) -> None:
    """Insert a content that was created at a moment."""
    source.run(
        "INSERT INTO learning_content (id, title, content_type, language, native_text, translation,"
        " ipa, created_at, updated_at)"
        " VALUES (?, 'a', 'b', 'thai', 'c', 'd', 'e', ?, '2025-01-01')",
        (key, value),
    )
