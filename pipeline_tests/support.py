"""What several tests need: a source to write, a target to look into, a move between them."""

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline import settings, storage
from pipeline.environment import server
from pipeline.migrations.content import metadata
from pipeline.move import mending
from pipeline.move.extract import Source
from pipeline.move.live import pinned
from pipeline.move.mover import Mover
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.snapshot import take_snapshot
from pipeline.move.sync import Syncer, why_whole
from pipeline.move.target import Target
from pipeline.move.transaction import Move
from pipeline.move.work import DELETE_SHARE
from pipeline.settings import libpq

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


def move_all(
    source: Path,
    url: str,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    delete_share: float = DELETE_SHARE,
    run_id: str = "test",
) -> dict[str, Move]:
    """Move tables as one run does, without Dagster; by table name."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot = take_snapshot(source, Path(folder) / "source.db", tables=tables, busy_seconds=2)
        opened = Source(snapshot)
        with Target.connect(url, shown="the target") as target:
            mending.apply(opened, tables, mending.read(target, [table.name for table in tables]))
            with Mover.over(opened, target, run_id=run_id, delete_share=delete_share) as mover:
                return {
                    table.name: mover.move(table, upcoming=tables[at + 1 :])
                    for at, table in enumerate(tables)
                }


def sync_all(
    source: Path,
    url: str,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    delete_share: float = DELETE_SHARE,
    policies: Policies = DEFAULT,
    run_id: str = "sync",
) -> dict[str, Move]:
    """Sync tables as one run does, without Dagster; by table name."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(source, Path(folder), tables=tables, busy_seconds=2) as live,
    ):
        assert why_whole(tables, live=live, target=target, policies=policies) is None
        syncer = Syncer(live, target, run_id=run_id, delete_share=delete_share, policies=policies)
        return {
            table.name: syncer.move(table, upcoming=tables[at + 1 :])
            for at, table in enumerate(tables)
        }


@contextmanager
def new_database(server: URL, name: str, *, template: str = "template1") -> Iterator[URL]:
    """A database that is dropped at the end of a block."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        # Copying files takes less than half the work of the default, which logs every page.
        connection.cursor().execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
        )
        try:
            yield server.set(database=name)
        finally:
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def use(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Give settings to this process, and let Dagster keep its runs in their target."""
    for name, value in variables.items():
        patch.setenv(name, value)
    # storage.prepare sets these for the process; the patch takes them back.
    for name in (settings.DAGSTER_URL, settings.DAGSTER_FILES):
        patch.setenv(name, "")
    patch.setenv("DAGSTER_HOME", str(settings.PROJECT))
    loaded = settings.load()
    storage.prepare(server(loaded), loaded)


def query(url: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of the target; a statement without rows gives none. It is committed."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def reasons(url: str, table: str) -> dict[str, set[str]]:
    """What is in quarantine of a table: key (or handle) -> reason codes."""
    rows = query(
        url,
        "SELECT coalesce(source_key, handle), array_agg(r->>'code') FROM migration.quarantine,"
        " jsonb_array_elements(reasons) r WHERE table_name = %s GROUP BY 1",
        (table,),
    )
    return {key: set(codes) for key, codes in rows}
