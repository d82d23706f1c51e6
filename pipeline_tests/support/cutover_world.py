"""A source with its application, a target, and an operator who cuts over and goes back."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.environment import databases
from pipeline.config.settings import libpq
from pipeline.core.messages import written
from pipeline.core.policies import DEFAULT
from pipeline.cutover import rollback, states, steps
from pipeline.cutover.gate import Answer
from pipeline.cutover.steps import CutoverContext
from pipeline.migrations import registry
from pipeline.migrations.content import metadata
from pipeline.move.context.options import MoveOptions
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
YES = [Answer("all else", True, "is well")]


class World:
    """A source with an application, a target, and what an operator does with them."""

    def __init__(self, source: SourceFile, url: str, folder: Path) -> None:
        """Nothing is moved yet."""
        self.source, self.url, self.folder = source, url, folder
        self.said: list[str] = []
        self.policies = DEFAULT
        self.tables: Sequence[sa.Table] = TABLES
        self.delete_share = 0.25

    @property
    def migration(self) -> str:
        """What is cut over."""
        return registry.find().of(self.tables).name

    def locate(self) -> Path:
        """The live source, as the settings say."""
        return databases(settings.load(), registry.find().of(self.tables), fresh=True).source

    @contextmanager
    def site(self) -> Iterator[CutoverContext]:
        """Both databases, under the lock."""
        with (
            SourceViews(self.locate, self.folder / "runs", name="cutover") as views,
            Target.connect(self.url, shown="the target") as target,
            target.lock(seconds=0),
        ):
            yield CutoverContext(
                self.source.path,
                views,
                target,
                self.migration,
                self.tables,
                MoveOptions("cutover", self.policies, self.delete_share, quarantine_share=1),
                lambda text: self.said.append(written(text)),
            )

    def freeze(self, outside: Sequence[Answer] = YES) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.freeze(site, outside=outside)

    def live(self, outside: Sequence[Answer] = YES) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.go_live(site, outside=outside)

    def unfreeze(self) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.unfreeze(site)

    def close(self) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.close(site)

    def rollback(self) -> list[rollback.Returned]:
        """As the command."""
        with self.site() as site:
            return rollback.roll_back(site, self.folder / "back")

    def ask(self) -> dict[str, str]:
        """What the gate's answers say; those that are no begin with it."""
        with self.site() as site:
            found = steps.ask(site)
        return {a.question: a.detail if a.yes else f"no: {a.detail}" for a in found}

    @property
    def state(self) -> str:
        """Who may write."""
        with Target.connect(self.url, shown="the target") as target:
            return states.read(target, self.migration).state

    def do(self, sql: str) -> None:
        """What the application does in the target."""
        query(self.url, sql)


@pytest.fixture
def shadow(target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which nothing is moved yet."""
    return made_world(tmp_path, target_url, monkeypatch)


def made_world(folder: Path, url: str, patch: pytest.MonkeyPatch) -> World:
    source = SourceFile.make(folder / "source.db")
    source.add_family()
    with closing(sqlite3.connect(source.path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    set_up(source.path, url, patch)
    return World(source, url, folder)


def set_up(source: Path, url: str, patch: pytest.MonkeyPatch) -> None:
    for migration in registry.find():
        patch.setenv(migration.setting, f"sqlite:///{source}")
    patch.setenv("DATABASE_URL", url)


def query_alone(url: str, sql: str) -> None:
    """Outside of any transaction."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(sql)


@pytest.fixture(scope="module")
def gone_live(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A source and the name of a database that have been cut over."""
    folder, name = tmp_path_factory.mktemp("live"), "gone_live"
    with new_database(server, name) as database:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PIPELINE_HOME", str(folder / "home"))
            made = made_world(folder, libpq(database), patch)
            assert made.live().state == "live"
        yield made.source.path, name


@pytest.fixture
def live(
    gone_live: tuple[Path, str], server: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world of its own that is live."""
    path, template = gone_live
    shutil.copy(path, tmp_path / "source.db")
    with new_database(server, "live_now", template=template) as database:
        set_up(tmp_path / "source.db", libpq(database), monkeypatch)
        yield World(SourceFile(tmp_path / "source.db"), libpq(database), tmp_path)


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every value of the source with its storage class."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
            for name in NAMES
        }


def equal(world: World) -> None:
    """Both sides hold the same, as a whole move that looks at every value says."""
    moved = move_all(world.source.path, world.url)
    assert {name: moved[name].strategy for name in NAMES} == dict.fromkeys(NAMES, "unchanged")
