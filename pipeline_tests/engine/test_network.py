"""The network fails at a chosen moment of a move: nothing is lost, nothing is half done."""

import os
import re
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import Transient
from pipeline.migrations.content import metadata
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.proxy import Fault, Proxy, proxied
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import did
from pipeline_tests.support.targets import query, reasons

NAMES = [table.name for table in metadata.sorted_tables]
SENTENCES = re.compile(r"[^\n]+\. [A-Z][^\n]*\.")
FAULTS: list[Fault] = ["reset", "truncate", "lose the answer"]
PHASES = {
    "begin": b"BEGIN",
    "make the table": b"CREATE TABLE ",
    "load": b"COPY ",
    "keys": b"PRIMARY KEY",
    "foreign keys": b"FOREIGN KEY",
    "quarantine": b"migration.quarantine",
    "prove": b"array_send",
    "watermark": b"INSERT INTO migration.watermarks",
    "evidence": b"INSERT INTO migration.evidence",
}


@pytest.fixture
def proxy(database: URL) -> Iterator[Proxy]:
    with proxied(database) as made:
        yield made


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """Three contents with all that belongs to them, and a row that goes to quarantine."""
    source.add_family(contents=3)
    source.add("rankings", {"id": 99, "rank_score": 9})
    return source


def assert_whole(url: str) -> dict[str, int]:
    """Every table is there with its watermark and evidence, or nothing of it is; its rows."""
    if query(url, "SELECT to_regclass('migration.watermarks')") == [(None,)]:
        assert query(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
        return {}
    marks = dict(query(url, "SELECT table_name, rows FROM migration.watermarks"))
    there = {
        name: query(url, f"SELECT count(*) FROM {name}")[0][0]
        for name in NAMES
        if query(url, "SELECT to_regclass(%s)", (name,)) != [(None,)]
    }
    assert there == marks
    proven = query(url, "SELECT DISTINCT table_name FROM migration.evidence")
    assert {name for (name,) in proven} == set(marks)
    aside = query(url, "SELECT DISTINCT table_name FROM migration.quarantine")
    assert {name for (name,) in aside} == set(marks) & {"rankings"}
    return there


@pytest.mark.parametrize("fault", FAULTS)
def test_a_move_that_is_cut_in_any_phase_is_whole_or_not_there_and_can_be_run_again(
    fault: Fault, family: SourceFile, proxy: Proxy, target_url: str
) -> None:
    for phase, marker in PHASES.items():
        proxy.plan(fault, marker)
        with pytest.raises(Transient) as caught:
            move_all(family.path, libpq(proxy.url))
        assert proxy.broken == 1, phase
        assert SENTENCES.fullmatch(str(caught.value)), phase
        assert "run again" in caught.value.remedy.lower(), phase
        assert_whole(target_url)
    moves = move_all(family.path, libpq(proxy.url))
    assert assert_whole(target_url) == {name: move.moved_rows for name, move in moves.items()}
    assert reasons(target_url, "rankings") == {"99": {"check"}}
    assert did(move_all(family.path, target_url)) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_whose_answer_is_lost_is_found_done_or_undone(
    fault: Fault, family: SourceFile, proxy: Proxy, target_url: str
) -> None:
    # The second table's; the first one's is answered.
    proxy.plan(fault, b"COMMIT\0", skip=1)
    with pytest.raises(Transient):
        move_all(family.path, libpq(proxy.url))
    assert proxy.broken == 1
    there = assert_whole(target_url)
    assert list(there) == NAMES[: 1 + (fault == "lose the answer")]
    moves = move_all(family.path, libpq(proxy.url))
    assert {name for name, move in moves.items() if move.strategy == "unchanged"} == set(there)
    assert len(assert_whole(target_url)) == 4


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sync_that_is_cut_leaves_each_table_as_it_was_or_in_step(
    fault: Fault, family: SourceFile, proxy: Proxy, target_url: str
) -> None:
    move_all(family.path, target_url)
    family.run("UPDATE rankings SET rank_score = 1, updated_at = '2026-01-01' WHERE id < 5")
    family.run("DELETE FROM rankings WHERE id = 5")
    now = "SELECT count(*) FILTER (WHERE rank_score = 1), count(*) FROM rankings"
    for marker in (b'INSERT INTO "rankings"', b'DELETE FROM "rankings"', b"COMMIT\0"):
        proxy.plan(fault, marker)
        with pytest.raises(Transient):
            sync_all(family.path, libpq(proxy.url), tables=[metadata.tables["rankings"]])
        assert proxy.broken == 1, marker
        committed = fault == "lose the answer" and marker == b"COMMIT\0"
        assert query(target_url, now) == [(4, 11) if committed else (0, 12)], marker
    sync_all(family.path, libpq(proxy.url))
    assert query(target_url, now) == [(4, 11)]
    assert_whole(target_url)


def test_a_slow_network_is_only_slow(family: SourceFile, proxy: Proxy, target_url: str) -> None:
    proxy.seconds = 0.002
    moves = move_all(family.path, libpq(proxy.url))
    assert assert_whole(target_url) == {name: move.moved_rows for name, move in moves.items()}


def test_a_server_that_never_answers_is_not_waited_for_for_ever(source: SourceFile) -> None:
    source.add("learning_content")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        started = time.monotonic()
        with pytest.raises(Transient, match="the server does not respond"):
            move_all(source.path, url)
    assert time.monotonic() - started < 10


def test_a_connection_asks_for_signs_of_life(proxy: Proxy) -> None:
    with Target.connect(libpq(proxy.url), shown="the target") as target:
        assert target.value("SELECT 1") == 1
        port = proxy.url.port
        (ours,) = [
            each.fd
            for each in psutil.Process().net_connections("tcp4")
            if each.raddr and each.raddr.port == port
        ]
        with socket.socket(fileno=os.dup(ours)) as seen:
            assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
