"""What commands ask of the target, which may be far away: a fixed number of round trips.

The limits are a few above what is needed now. Who raises one has to say why a far target waits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from bench.proxy import Counts, Proxy, relay
from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.migrations.content import CONTENT
from pipeline.migrations.spaces_sample import make_sample
from pipeline.orchestration import runs, schedules
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile


@dataclass(frozen=True)
class Limit:
    """The most that a command may need of the target."""

    connections: int
    round_trips: int
    statements: int


MIGRATE = Limit(4, 142, 126)
NOTHING_CHANGED = Limit(3, 36, 28)
ONE_CHANGED = Limit(3, 75, 65)
VERIFY = Limit(3, 92, 82)
PLAN = Limit(3, 68, 58)
DOCTOR = Limit(4, 45, 35)
TICK = Limit(2, 18, 12)
SPACES_NOTHING_CHANGED = Limit(3, 60, 52)


@pytest.fixture
def far(database: URL) -> Iterator[Proxy]:
    with relay(database) as proxy:
        yield proxy


def taken(far: Proxy, command: str, *arguments: str, **options: object) -> Counts:
    """What a command that succeeds needs."""
    far.taken()
    ran = pipeline(command, *arguments, **options)
    assert ran.code == 0, ran.err + ran.out
    return far.taken()


def require(counts: Counts, limit: Limit) -> None:
    found = Limit(counts.connections, counts.round_trips, len(counts.statements))
    assert found.connections <= limit.connections, counts.statements
    assert found.round_trips <= limit.round_trips, (found, counts.statements)
    assert found.statements <= limit.statements, (found, counts.statements)


def test_each_command_needs_as_much_for_many_rows_as_for_few(
    source: SourceFile, far: Proxy, tmp_path: Path
) -> None:
    options = usable(source, libpq(far.url), tmp_path)
    source.add_family(contents=2)
    require(taken(far, "migrate", **options), MIGRATE)
    taken(far, "sync", **options)
    few = {command: taken(far, command, **options) for command in ("sync", "verify", "plan")}
    for table in ("rankings", "fragment_assets", "content_fragments", "learning_content"):
        source.run(f"DELETE FROM {table}")
    source.add_family(contents=200)
    taken(far, "migrate", **options)
    taken(far, "sync", **options)
    many = {command: taken(far, command, **options) for command in ("sync", "verify", "plan")}
    for command, limit in (("sync", NOTHING_CHANGED), ("verify", VERIFY), ("plan", PLAN)):
        require(many[command], limit)
        assert len(few[command].statements) == len(many[command].statements), command
    source.run("UPDATE learning_content SET ipa = 'x', updated_at = '2031-01-01' WHERE id = 1")
    require(taken(far, "sync", **options), ONE_CHANGED)
    require(taken(far, "doctor", **options), DOCTOR)


def test_a_sync_of_many_tables_needs_two_round_trips_for_each(far: Proxy, tmp_path: Path) -> None:
    path = tmp_path / "spaces.db"
    make_sample(path)
    options = {
        "MIGRATIONS": "content,spaces",
        "SPACES_DATABASE_URL": f"sqlite:///{path}",
        "DATABASE_URL": libpq(far.url),
        "PIPELINE_HOME": str(tmp_path / "home"),
    }
    for _ in range(2):
        taken(far, "migrate", "spaces", **options)
    counts = taken(far, "sync", "spaces", **options)
    require(counts, SPACES_NOTHING_CHANGED)
    assert counts.received < 400_000


def test_a_tick_and_the_sensor_need_one_connection(
    source: SourceFile, far: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, usable(source, libpq(far.url), tmp_path))
    settings.load()
    with runs.instance() as instance:
        far.taken()
        assert schedules.under_way(instance, follows=CONTENT) is None
        require(far.taken(), TICK)
        assert schedules.under_way(instance, follows=CONTENT) is None
        require(far.taken(), Limit(1, 10, 6))
