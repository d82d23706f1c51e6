"""A small source that has moved once, and a target of its own for each test, copied from it."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.move.run.transaction import MoveResult
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.subsets import move_subset
from pipeline_tests.support.syncs import TABLES
from pipeline_tests.support.targets import new_database, query

_names = itertools.cycle(range(4))
_TEMPLATE = "moved_once"


@dataclass(frozen=True)
class Pair:
    """A source, and the target that it has moved to."""

    source: SourceFile
    url: str

    def move(self, strategy: str) -> dict[str, MoveResult]:
        """Move once more: "full", "sync" or "subset" (of every content)."""
        return MOVES[strategy](self)

    def do(self, sql: str) -> None:
        """Change the target."""
        query(self.url, sql)

    def rows(self) -> dict[str, list[tuple[str]]]:
        """All rows of the target."""
        return {
            table.name: query(self.url, f"SELECT t::text FROM {table.name} AS t ORDER BY 1")
            for table in TABLES
        }


def _subset(pair: Pair) -> dict[str, MoveResult]:
    keys = [key for (key,) in pair.source.run("SELECT id FROM learning_content")]
    return move_subset(pair.source, pair.url, *keys)


MOVES: dict[str, Callable[[Pair], dict[str, MoveResult]]] = {
    "full": lambda pair: move_all(pair.source.path, pair.url, delete_share=1),
    "sync": lambda pair: sync_all(pair.source.path, pair.url, delete_share=1),
    "subset": _subset,
}


@pytest.fixture(scope="session")
def _moved_once(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    source = SourceFile.make(tmp_path_factory.mktemp("moved") / "source.db")
    source.add_family(contents=3)
    source.add("fragment_assets", {"id": 60, "fragment_id": 1})
    tracking.switch_on(source.path, TABLES)
    with new_database(server, _TEMPLATE) as made:
        move_all(source.path, libpq(made))
        yield source.path


@pytest.fixture
def pair(_moved_once: Path, server: URL, tmp_path: Path) -> Iterator[Pair]:
    """Both databases after a first move; the source tracks its changes."""
    path = tmp_path / "moved.db"
    shutil.copy(_moved_once, path)
    with new_database(server, f"moved_{next(_names)}", template=_TEMPLATE) as made:
        yield Pair(SourceFile(path), libpq(made))
