"""A target, both sources and a PIPELINE_HOME as an earlier version of the project left them.

They lie in ``fixtures``, in a folder named after the commit that made them; its ``make.py`` tells
how, and what they hold. They were made in /srv/pipeline, by the user ``owner`` of a server with
Supabase's roles; when they are loaded that path becomes the one where they lie now, wherever it is
text: in the ledger, in Dagster's tables and in the manifests of backups, which are sealed anew. The
tables within a backup keep it, as those of somebody would who moved a folder.
"""

import hashlib
import json
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.cutover_world import query_alone
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

FIXTURES = Path(__file__).parents[1] / "fixtures"
MADE_IN = "/srv/pipeline"
MADE_AS = f"PostgreSQL application at {MADE_IN}/server"
"""What messages called the target when it was made."""
NAME = "old_world"
_AS_OLD = """
DO $$ BEGIN
  PERFORM set_config('synchronous_commit', 'off', false);
  WHILE pg_current_xact_id() <= (SELECT max(xid) FROM feed.changes) LOOP COMMIT; END LOOP;
END $$
"""
"""The feed knows transactions by their numbers, so the server has to be at least as old."""
Ledger = dict[str, list[dict[str, Any]]]
"""Rows by table, each by the names of its columns."""


@dataclass(frozen=True)
class OldWorld:
    """What an earlier version left, loaded for one test.

    Attributes:
        url: the target, as its owner reaches it.
        admin: the same, as the server's superuser does.
        folder: where the sources and PIPELINE_HOME are.
    """

    url: str
    admin: str
    folder: Path

    @property
    def home(self) -> Path:
        """PIPELINE_HOME."""
        return self.folder / "home"

    @property
    def content(self) -> SourceFile:
        """The source of the learning application."""
        return SourceFile(self.folder / "content.db")

    @property
    def spaces(self) -> SourceFile:
        """The source of the group spaces."""
        return SourceFile(self.folder / "spaces.db")

    @property
    def variables(self) -> dict[str, str]:
        """The settings it was made by."""
        return {
            "MIGRATIONS": "content,spaces",
            "SQLITE_DATABASE_URL": f"sqlite:///{self.content.path}",
            "SPACES_DATABASE_URL": f"sqlite:///{self.spaces.path}",
            "DATABASE_URL": self.url,
            "PIPELINE_HOME": str(self.home),
            "ANKI_COLLECTION": str(self.folder / "anki" / "collection.anki2"),
        }

    def __call__(self, *arguments: str, **settings: object) -> Ran:
        """Run a command of today."""
        return pipeline(*arguments, **{**self.variables, **settings})

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the target."""
        return query(self.url, sql)

    def ledger(self) -> Ledger:
        """Every row of the ledger."""
        tables = self.query(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'migration' ORDER BY 1"
        )
        return {
            name: [
                row
                for (row,) in self.query(
                    f"SELECT to_jsonb(t) FROM migration.{name} t ORDER BY to_jsonb(t)"
                )
            ]
            for (name,) in tables
        }


@pytest.fixture(scope="session")
def old_template(supabase_server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files as they were; the database ``old_template`` beside it."""
    made_by = FIXTURES / "38b3f1e"
    folder = tmp_path_factory.mktemp(NAME)
    kept = folder / "as it was"
    host = str(supabase_server.query["host"])
    moved = {MADE_AS: f"PostgreSQL {NAME} at {host}", MADE_IN: str(folder / NAME)}
    with tarfile.open(made_by / "files.tar.xz") as tar:
        tar.extractall(kept, filter="data")
    for manifest in kept.glob("home/backups/*/manifest.json"):
        _rewrite(manifest, moved)
    _drop(supabase_server, "old_template")
    query_alone(libpq(supabase_server), "CREATE DATABASE old_template OWNER owner")
    database = supabase_server.set(database="old_template")
    query_alone(libpq(database), "ALTER SCHEMA public OWNER TO owner")
    dump = lzma.decompress((made_by / "target.sql.xz").read_bytes()).decode()
    query_alone(libpq(database.set(username="owner")), _replaced(dump, moved))
    query_alone(libpq(database), _AS_OLD)
    yield folder
    _drop(supabase_server, "old_template")


@pytest.fixture
def old_world(old_template: Path, supabase_server: URL) -> Iterator[OldWorld]:
    """All of it, for one test."""
    folder = old_template / NAME
    shutil.copytree(old_template / "as it was", folder)
    query_alone(libpq(supabase_server), f"CREATE DATABASE {NAME} OWNER owner TEMPLATE old_template")
    database = supabase_server.set(database=NAME)
    yield OldWorld(libpq(database.set(username="owner")), libpq(database), folder)
    _drop(supabase_server, NAME)
    shutil.rmtree(folder)


def _drop(server: URL, name: str) -> None:
    query_alone(libpq(server), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _replaced(text: str, moved: dict[str, str]) -> str:
    for then, now in moved.items():
        text = text.replace(then, now)
    return text


def _rewrite(manifest: Path, moved: dict[str, str]) -> None:
    whole = json.loads(_replaced(manifest.read_text(), moved))
    del whole["seal"]
    # As that version sealed it.
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(whole | {"seal": seal}, ensure_ascii=False, indent=1))
