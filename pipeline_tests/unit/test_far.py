"""The benchmark of a far server has a source of the application's size, and medians as results."""

import sqlite3
from contextlib import closing
from pathlib import Path

from bench import far
from bench.far import Case, Distance, Measurement
from bench.report import Remark
from bench.target import TABLES
from bench.workloads import make_application


def test_the_source_has_the_size_of_the_application(tmp_path: Path) -> None:
    made = [tmp_path / "one.db", tmp_path / "two.db"]
    for path in made:
        make_application(path, 1)
    assert made[0].read_bytes() == made[1].read_bytes()
    with closing(sqlite3.connect(made[0])) as connection:
        rows = [
            connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            for table in TABLES
        ]
        (size,) = connection.execute(
            "SELECT sum(length(asset_data)) FROM fragment_assets"
        ).fetchone()
    assert (len(rows), sum(rows)) == (4, 153)
    assert 1.8 * 2**20 < size < 2.2 * 2**20


def test_a_distance_is_a_round_trip_and_perhaps_a_limit() -> None:
    assert [str(far._distance(text)) for text in ("0", "2.5", "50/100")] == [
        "0 ms",
        "2.5 ms",
        "50 ms, 100 Mbit/s",
    ]


def test_results_are_medians_and_what_has_none_says_why() -> None:
    some = [Measurement(seconds, 2, 9, 10, 20) for seconds in (3.0, 1.23456, 1.0)]
    moved = Case("application", Distance(50, 100), "pipeline", "sync")
    absent = Case("application", Distance(50, 100), "pgloader", "pgloader")
    reason = "not available: pgloader is not installed"
    remark = Remark("application", "pgloader", reason, failed=False)
    place = {"workload": "application", "ms": 50, "mbit": 100}
    assert far._as_json({moved: far._median(some)}, {absent: remark}) == [
        {
            **place,
            "way": "pipeline",
            "step": "sync",
            "seconds": 1.235,
            "connections": 2,
            "round_trips": 9,
            "sent": 10,
            "received": 20,
        },
        {**place, "way": "pgloader", "step": "pgloader", "reason": reason},
    ]
