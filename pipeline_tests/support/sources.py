"""A source that a test writes: the application's schema, and sound rows of each table."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTENT_DDL = """
CREATE TABLE learning_content (id INTEGER NOT NULL PRIMARY KEY, title VARCHAR(200) NOT NULL,
  content_type VARCHAR(50) NOT NULL, language VARCHAR(10) NOT NULL, native_text TEXT NOT NULL,
  translation TEXT NOT NULL, ipa TEXT NOT NULL, difficulty_level INTEGER, tags JSON,
  content_metadata JSON, created_at DATETIME, updated_at DATETIME, last_review_at DATETIME);
CREATE TABLE content_fragments (id INTEGER NOT NULL PRIMARY KEY, native_text TEXT NOT NULL,
  body_text TEXT NOT NULL, ipa TEXT, extra TEXT, fragment_type VARCHAR(50) NOT NULL,
  fragment_metadata JSON, created_at DATETIME, updated_at DATETIME,
  learning_content_id INTEGER NOT NULL REFERENCES learning_content(id));
CREATE TABLE fragment_assets (id INTEGER NOT NULL PRIMARY KEY,
  fragment_id INTEGER NOT NULL REFERENCES content_fragments(id), asset_type VARCHAR(20) NOT NULL,
  asset_data BLOB, asset_metadata JSON, created_at DATETIME, created_by VARCHAR(100));
CREATE TABLE rankings (id INTEGER NOT NULL PRIMARY KEY,
  fragment_id INTEGER REFERENCES content_fragments(id),
  asset_id INTEGER REFERENCES fragment_assets(id), rank_score FLOAT, assessed_by VARCHAR(100),
  assessment_notes TEXT, created_at DATETIME, updated_at DATETIME);
"""
"""The application's own schema of the four tables."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "learning_content": {
        "title": "กิน",
        "content_type": "vocabulary",
        "language": "thai",
        "native_text": "กิน",
        "translation": "to eat",
        "ipa": "kin",
        "difficulty_level": 1,
        "tags": '["food"]',
        "content_metadata": '{"frequency": 1}',
        "created_at": "2025-08-06 03:07:13.716509",
        "updated_at": "2025-08-06 03:07:13.716509",
        "last_review_at": None,
    },
    "content_fragments": {
        "native_text": "ผมกินข้าว",
        "body_text": "I eat rice",
        "fragment_type": "real_life_example",
        "learning_content_id": 1,
        "created_at": "2025-08-06 03:07:13.716509",
        "updated_at": "2025-08-06 03:07:13.716509",
    },
    "fragment_assets": {
        "fragment_id": 1,
        "asset_type": "audio",
        "asset_data": b"RIFF",
        "created_at": "2025-08-06 03:07:13.716509",
    },
    "rankings": {
        "fragment_id": 1,
        "rank_score": 4.5,
        "assessed_by": "somchai",
        "created_at": "2025-08-06 03:07:13.716509",
        "updated_at": "2025-08-06 03:07:13.716509",
    },
}
"""A sound row of each table."""


@dataclass(frozen=True)
class SourceFile:
    """A source that a test writes."""

    path: Path

    @classmethod
    def make(cls, path: Path, ddl: str = CONTENT_DDL) -> "SourceFile":
        """An empty source in the application's schema."""
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(ddl)
        return cls(path)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement and commit."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    def add(self, table: str, *rows: dict[str, Any]) -> None:
        """Insert rows; what a row does not say is sound. Without rows, one sound row."""
        for row in rows or ({},):
            whole = {**DEFAULTS[table], **row}
            names, marks = ", ".join(whole), ", ".join("?" * len(whole))
            self.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(whole.values()))

    def add_family(self, *, contents: int = 3) -> None:
        """For each content 2 fragments, for each fragment an asset and 2 rankings."""
        for c in range(1, contents + 1):
            self.add("learning_content", {"id": c, "title": f"word {c}"})
            for f in (2 * c - 1, 2 * c):
                self.add("content_fragments", {"id": f, "learning_content_id": c})
                blob = bytes([f % 256]) * 100
                self.add("fragment_assets", {"id": f, "fragment_id": f, "asset_data": blob})
                self.add("rankings", {"id": 2 * f - 1, "fragment_id": f, "asset_id": None})
                self.add("rankings", {"id": 2 * f, "fragment_id": f, "asset_id": f})


PARENTS: dict[str, dict[str, str]] = {
    "learning_content": {},
    "content_fragments": {"learning_content_id": "learning_content"},
    "fragment_assets": {"fragment_id": "content_fragments"},
    "rankings": {"fragment_id": "content_fragments", "asset_id": "fragment_assets"},
}
"""By table: columns that refer to a row of another one, and which."""


CHANGED_BY = dict.fromkeys(PARENTS, "updated_at") | {"fragment_assets": "created_at"}
"""By table: the column that tells a change, said here once more than the declaration does."""


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
