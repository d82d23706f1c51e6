"""A database on Turso may be far away: a command asks it a fixed number of times."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.proxy import Proxy, relay
from pipeline.config import environment, settings
from pipeline.migrations.content import CONTENT
from pipeline.sqlite import copy_markers
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Remote
from pipeline.sqlite.snapshot import writing
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.turso import Server, application


@pytest.fixture
def far(turso: Server) -> Iterator[Proxy]:
    """The way to the server, which counts."""
    with relay(f"http://127.0.0.1:{turso.port}") as proxy:
        yield proxy
    copy_markers.PRIMARIES.clear()


def requests(far: Proxy, what: Callable[[], object]) -> int:
    """How many requests an action sends, each on a connection of its own."""
    far.taken()
    what()
    counts = far.taken()
    assert counts.round_trips == 2 * counts.connections
    return counts.connections


def test_a_pull_and_a_write_ask_as_often_for_many_rows_as_for_few(
    turso: Server, far: Proxy, tmp_path: Path
) -> None:
    home, origin = tmp_path / "home", Remote(str(far.url))
    turso.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")

    def add(rows: int) -> None:
        turso.run(f"INSERT INTO t (v) VALUES {', '.join(['(hex(randomblob(400)))'] * rows)}")

    def write(rows: int) -> None:
        with writing(path, why="a test") as connection:
            connection.executemany("INSERT INTO t (v) VALUES (?)", [("x",)] * rows)

    def pull() -> None:
        fetch(origin, home=home)

    add(3)
    first = requests(far, pull)
    path = fetch(origin, home=home)
    found = []
    for rows in (3, 900):
        add(rows)
        found.append([requests(far, pull), requests(far, pull)])
        found[-1].append(requests(far, lambda rows=rows: write(rows // 3)))  # type: ignore[misc]
    assert found[0] == found[1] == [1, 1, 3]
    assert requests(far, lambda: fetch(origin, home=tmp_path / "another")) == first == 2


def test_a_command_that_finds_nothing_new_asks_once(
    turso: Server,
    far: Proxy,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "SQLITE_DATABASE_URL": str(far.url),
        "DATABASE_URL": target_url,
        "PIPELINE_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = application(turso, settings.load().source_path(CONTENT))
    app.add_family()

    def asked(*arguments: str) -> int:
        def run() -> None:
            assert pipeline(*arguments, **variables).code == 0

        return requests(far, run)

    move_all(environment.source_file(settings.load(), CONTENT), target_url)
    assert [asked(name) for name in ("sync", "verify")] == [1, 1]
