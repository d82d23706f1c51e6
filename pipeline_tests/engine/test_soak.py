"""Sync in a loop against a random writer: after every tick both sides say the same.

SOAK_SEEDS (default 1) says how many seeds each loop takes, SOAK_TICKS (default 100, for the slow
seeds 120) how many ticks. A seed decides the shape of the source, every statement that is written
and every value; with the mode it is in the test's name, so a failing one can be run again.

What both sides hold is read and compared here, by code that shares nothing with the pipeline.
"""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from pipeline_tests.support.comparison import assert_same
from pipeline_tests.support.moves import sync_all
from pipeline_tests.support.random_writer import KEYS, MODES, SEEDS, begin, tick


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_sync_follows_a_random_writer(
    mode: str, seed: int, target_url: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{mode} {seed}")
    key = KEYS[seed % len(KEYS)]
    writer = begin(tmp_path / "soak.db", target_url, rng, tracked=mode == "tracked", key=key)
    for number in range(int(os.environ.get("SOAK_TICKS", "120" if seed else "40"))):
        try:
            tick(writer, target_url, number)
        except Exception:
            written = "\n".join(writer.said)
            print(f"mode {mode}, seed {seed}, keys {key}, tick {number}; written:\n{written}")
            raise
        writer.said.clear()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("journal", "mode"),
    [
        ("WAL", "dates"),
        ("DELETE", "tracked"),
        pytest.param("WAL", "tracked", marks=pytest.mark.slow),
        pytest.param("DELETE", "dates", marks=pytest.mark.slow),
    ],
)
def test_sync_follows_a_writer_that_never_waits_for_it(
    journal: str, seed: int, mode: str, target_url: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{journal} {mode} {seed}")
    path = tmp_path / "soak.db"
    writer = begin(path, target_url, rng, tracked=mode == "tracked", key=KEYS[0])
    stop, failed, transactions = threading.Event(), list[BaseException](), 0

    def write() -> None:
        """Write until told to stop."""
        nonlocal transactions
        try:
            with writer.opened(timeout=60):
                writer.do(f"PRAGMA journal_mode = {journal}")
                while not stop.is_set():
                    writer.transaction()
                    transactions += 1
                    time.sleep(0.005)
        except BaseException as error:
            failed.append(error)

    application = threading.Thread(target=write)
    application.start()
    try:
        for _ in range(40 if seed else 5):
            sync_all(path, target_url, delete_share=1.0)
    finally:
        stop.set()
        application.join()
    assert not failed
    assert transactions > 5
    sync_all(path, target_url, delete_share=1.0)
    assert_same(path, target_url)
