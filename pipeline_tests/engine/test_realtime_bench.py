"""Events measured against polling: what is told, what a loss does, and what is left behind."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from bench.realtime import chart, measure, subscribers
from bench.realtime.__main__ import main
from bench.realtime.fixture import PREFIX, scratch
from bench.realtime.load import FIRST
from bench.realtime.result import Measured, Outcome
from bench.realtime.wire import wired
from pipeline.application.realtime.limits import Limits
from pipeline.application.realtime.subscription import Subscription
from pipeline.application.realtime.transports.events import Changed, Event
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError, TargetError
from pipeline_tests.support.runs import use
from pipeline_tests.support.targets import query

TINY = ("--subscribers", "5", "--seconds", "1", "--rate", "20", "--json")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come after half a second, and so does a look at the feed that nobody hinted at."""
    monkeypatch.setattr(subscribers, "EVERY", 0.5)
    monkeypatch.setattr(subscribers, "LIMITS", Limits(silence=0.5, poll=0.2))
    monkeypatch.setattr(measure, "PATIENCE", 8.0)


@pytest.fixture
def home(database: URL, tmp_path: Path) -> Iterator[dict[str, str]]:
    yield {"DATABASE_URL": libpq(database), "PIPELINE_HOME": str(tmp_path / "home")}
    assert scratch_databases(database) == []


def scratch_databases(database: URL) -> list[str]:
    found = query(libpq(database), "SELECT datname FROM pg_database WHERE datname ^@ %s", (PREFIX,))
    return [name for (name,) in found]


def bench(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Measure; the exit code and what was printed."""
    use(monkeypatch, home)
    code = main([*TINY])
    return code, json.loads(capfd.readouterr().out)


def by_way(printed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["way"]: each for each in printed["measured"]}


def test_both_ways_are_measured_and_leave_a_page_and_no_database(
    quick: None,
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, printed = bench(monkeypatch, capfd, home)
    assert code == 0
    found = by_way(printed)
    assert set(found) == {"polling", "events"}
    # Warm, calm and hard time together, each row at all five.
    assert {each["expected"] for each in found.values()} == {5 * round(20 * (0.5 + 1 + 0.5))}
    events = found["events"]
    assert (events["missed"], events["duplicates"]) == (0, 0)
    assert events["cuts"] >= 2
    assert 0 < events["p50_ms"] <= events["p95_ms"] <= events["p99_ms"]
    for each in found.values():
        assert each["wire"] > 0
        assert each["json"] > 0
        assert each["cpu"] > each["cpu_writing"] > 0
    assert found["polling"]["p50_ms"] > events["p50_ms"]
    (folder,) = Path(home["PIPELINE_HOME"], "reports").iterdir()
    assert json.loads((folder / "realtime.json").read_text()) == printed
    assert (folder / chart.PAGE).read_text().count("<svg") == 3
    # Nothing but where it was measured.
    assert query(home["DATABASE_URL"], "SELECT count(*) FROM pg_tables WHERE tablename = 'notes'")[
        0
    ] == (0,)


def test_an_event_that_is_lost_or_told_twice_is_counted_and_fails(
    quick: None,
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    offer, times = Subscription.offer, {str(FIRST + 7): 0, str(FIRST + 8): 2}

    def wrong(self: Subscription, event: Event) -> bool:
        told = times.pop(event.key, 1) if isinstance(event, Changed) else 1
        return all(offer(self, event) for _ in range(told))

    monkeypatch.setattr(Subscription, "offer", wrong)
    monkeypatch.setattr(measure, "PATIENCE", 2.0)
    monkeypatch.setattr(measure, "WAYS", ("events",))
    code, printed = bench(monkeypatch, capfd, home)
    assert code == 1
    events = by_way(printed)["events"]
    assert (events["missed"], events["duplicates"]) == (1, 1)
    assert [
        goal["reached"] for goal in printed["goals"] if goal["what"] == "missed or duplicated"
    ] == [False]


def test_ctrl_c_leaves_no_database(quick: None, database: URL) -> None:
    plan, seen = measure.Plan((5,), 60.0, 10.0), list[str]()

    def interrupt() -> None:
        seen.extend(scratch_databases(database))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(1.5, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        measure.run(database, plan, log=lambda _: None)
    assert len(seen) == 1
    assert scratch_databases(database) == []


def test_what_a_killed_run_left_behind_is_removed_by_the_next_one(database: URL) -> None:
    query_alone(database, f"CREATE DATABASE {PREFIX}left")
    with scratch(database) as made:
        assert scratch_databases(database) == [made.database]
    assert scratch_databases(database) == []


def query_alone(database: URL, statement: str) -> None:
    with psycopg.connect(libpq(database), autocommit=True) as connection:
        connection.execute(statement)


def test_who_may_not_make_a_database_is_told_what_to_do(database: URL) -> None:
    query(libpq(database), "CREATE ROLE bench_guest LOGIN")
    try:
        with (
            pytest.raises(TargetError, match=r"No scratch database .* Grant the user CREATEDB"),
            scratch(database.set(username="bench_guest")),
        ):
            pass
    finally:
        query(libpq(database), "DROP ROLE bench_guest")


@pytest.mark.parametrize("plan", [{"subscribers": ()}, {"subscribers": (0,)}, {"rate": 0.0}])
def test_what_cannot_be_measured_is_refused(plan: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="cannot be measured"):
        measure.Plan(**plan)


def test_the_wire_counts_every_byte_and_can_be_cut(database: URL) -> None:
    async def ask() -> tuple[int, int]:
        async with await psycopg.AsyncConnection.connect(libpq(wire.url)) as connection:
            await connection.execute("SELECT 1")
            before = wire.bytes
            await connection.execute(f"SELECT '{'x' * 1000}'")
            large = wire.bytes - before
            wire.cut()
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")
        return large, wire.cuts

    with wired(database) as wire:
        large, cuts = asyncio.run(ask())
    # There and back, and little besides.
    assert 2000 < large < 2200
    assert cuts == 1


def figures(strategy: str, subscribers: int, **other: Any) -> Measured:
    sound = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "wire": 100.0, "json": 100.0, "cpu": 5.0}
    more = {"cpu_writing": 1.0, "transactions": 10.0, "expected": 9, "missed": 0, "duplicates": 0}
    return Measured(strategy, subscribers, **{**sound, **more, "cuts": 0, "hints_lost": 0, **other})


def test_goals_are_reached_up_to_their_limit_and_not_beyond() -> None:
    def reached(**events: Any) -> list[bool]:
        outcome = Outcome(
            1,
            1,
            (
                figures("polling", 10, wire=300.0, cpu=5.0),
                figures("polling", 100),
                figures("events", 100, **events),
                figures("events", 10, wire=100.0),
            ),
        )
        (load,) = [goal for goal in outcome.goals if goal.subscribers == "100 to 10"]
        of_hundred = [goal for goal in outcome.goals if goal.subscribers == "100"]
        assert [goal.what for goal in of_hundred] == [
            "p95 in ms",
            "missed or duplicated",
            "bytes, of polling's",
        ]
        return [*(goal.reached for goal in of_hundred), load.reached]

    assert reached(p95_ms=100.0, wire=50.0, json=50.0) == [True] * 4
    assert reached(p95_ms=100.1, missed=1, cpu=5.1) == [False] * 4
    assert reached(duplicates=1, cpu=None, transactions=4.0)[1] is False
