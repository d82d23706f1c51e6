"""The proof attacks itself: every planted fault is caught, and a broken proof does not get by."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.cli.commands import moves
from pipeline.config.settings import libpq
from pipeline.core.errors import PipelineError, TargetError
from pipeline.core.findings import CheckResult
from pipeline.migrations.content_sample import make_sample
from pipeline.move.compare import columns
from pipeline.move.proof import constraints, verification
from pipeline.move.witness import second_witness
from pipeline.postgres.findings import KeyNotEnforced
from pipeline.selftest import attack as selftest
from pipeline.selftest import during_moves
from pipeline.selftest.attack import attack
from pipeline.selftest.during_moves import MOVE_FAULTS
from pipeline.selftest.faults import FAULTS, HARMLESS, Harmless
from pipeline.selftest.outcome import Outcome
from pipeline_tests.support.commands import command
from pipeline_tests.support.targets import query

NAMED = {
    "the last row is missing",
    "one bit of one BLOB is flipped",
    "two columns are swapped",
    "one timestamp is off by an hour",
    "a rank is rounded in the wrong direction",
    "a row is duplicated under another id",
    "a foreign key references the wrong row",
    "a number in a JSON document is changed",
    "a text has a trailing space",
    "a NULL became an empty string",
    "an index is missing",
    "a sequence is behind the largest id",
    "a quarantined row is lost",
    "a parent is deleted while triggers are off",
    "the driver uses the wrong encoding",
    "the reader drops characters",
    "a cast drops seconds",
    "a trigger changes a row at commit",
    "another table inherits from the moved one",
    "another session inserts a row during the move",
    "JSON keys in a different order",
    "equal times in a different zone",
}
"""What a selftest has to plant, whatever else it plants."""


def databases(server: URL) -> set[str]:
    names = query(libpq(server), "SELECT datname::text FROM pg_database")
    # Other tests of this session have databases of their own.
    return {name for (name,) in names if not name.startswith(("test_", "planned_", "shared_"))}


@pytest.fixture(autouse=True)
def _nothing_is_left(server: URL) -> Iterator[None]:
    before = databases(server)
    yield
    assert databases(server) == before


def few(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Plant only these faults, and nothing harmless."""
    chosen = tuple(fault for fault in FAULTS if fault.name in names)
    assert len(chosen) == len(names)
    monkeypatch.setattr(selftest, "FAULTS", chosen)
    monkeypatch.setattr(selftest, "HARMLESS", ())
    monkeypatch.setattr(during_moves, "MOVE_FAULTS", ())


@pytest.fixture
def on_this_server(server: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command use the server of this session instead of starting its own."""
    monkeypatch.setattr(moves, "ensure_server", lambda data: server)


@pytest.mark.usefixtures("on_this_server")
def test_every_difference_is_judged_rightly_and_shown(
    server: URL, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes: list[Outcome] = []

    def recorded(found: URL) -> Iterator[Outcome]:
        for outcome in attack(found):
            outcomes.append(outcome)
            yield outcome

    monkeypatch.setattr(selftest, "attack", recorded)
    leave_behind(server)
    ran = command(monkeypatch, capfd, "selftest")
    assert (ran.code, ran.err) == (0, "")
    assert "unexpected" not in ran.out
    assert ran.row("an index is missing")[0] == "schema"
    assert ran.row("the last row is missing")[0] == "conservation, keys, witness"
    assert ran.row("equal times in a different zone")[0] == "no check"

    assert [outcome.name for outcome in outcomes if not outcome.as_expected] == []
    assert {outcome.name for outcome in outcomes} >= NAMED
    caught = {outcome.name: outcome for outcome in outcomes}
    for fault in FAULTS:
        assert caught[fault.name].caught == fault.caught_by
        assert caught[fault.name].finding is not None
    for harmless in HARMLESS:
        assert caught[harmless.name].caught == frozenset()
    for of_move in MOVE_FAULTS:
        assert caught[of_move.name].caught == of_move.caught_by


@pytest.mark.parametrize("check", ["conservation", "keys", "digests", "foreign_keys", "schema"])
def test_every_check_is_attacked_by_a_fault_of_its_own(check: str) -> None:
    assert any(check in fault.caught_by for fault in FAULTS)


def test_without_the_second_witness_faults_of_driver_reader_and_cast_get_by(
    server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch)
    alone = {fault.name for fault in MOVE_FAULTS if fault.caught_by == {"witness"}}
    assert alone == {
        "the driver uses the wrong encoding",
        "the reader drops characters",
        "a cast drops seconds",
    }
    chosen = tuple(fault for fault in MOVE_FAULTS if fault.name in alone)
    monkeypatch.setattr(during_moves, "MOVE_FAULTS", chosen)
    monkeypatch.setattr(second_witness.Witness, "check", lambda self: second_witness.nothing())
    monkeypatch.setattr(second_witness, "check_all", lambda *args, **more: second_witness.nothing())
    outcomes = list(attack(server))
    assert {outcome.name for outcome in outcomes if not outcome.as_expected} == alone


@pytest.mark.parametrize("harmless", HARMLESS, ids=lambda each: each.name)
def test_what_is_harmless_really_is_another_text(tmp_path: Path, harmless: Harmless) -> None:
    path = tmp_path / "sample.db"
    make_sample(path)
    sql = f"SELECT id, {harmless.column} FROM {harmless.table} WHERE id < 9000"
    with closing(sqlite3.connect(path)) as connection:
        before = dict(connection.execute(sql))
    selftest._rewrite(path, harmless)
    with closing(sqlite3.connect(path)) as connection:
        after = dict(connection.execute(sql))
    assert before.keys() == after.keys()
    assert sum(before[key] != after[key] for key in before) > 10


def test_checks_that_always_pass_or_are_dropped_are_noticed(
    server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(
        monkeypatch,
        "a sequence is behind the largest id",
        "a foreign key constraint is missing",
        "an index is missing",
    )
    for name in ("foreign_keys", "schema"):
        passes = CheckResult(name, True, True)
        monkeypatch.setitem(
            verification._SINGLY, name, lambda target, mapping, passes=passes: passes
        )
    kept = tuple(name for name in verification.NAMES if name != "sequences")
    whole = selftest.verify_table
    monkeypatch.setattr(
        selftest, "verify_table", lambda *args, **more: whole(*args, **more, only=kept)
    )
    outcomes = list(attack(server))
    assert [outcome.as_expected for outcome in outcomes] == [False] * 3
    assert {outcome.caught for outcome in outcomes} == {frozenset()}


def test_a_check_that_cries_wolf_is_noticed(server: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, "a foreign key constraint is missing", "an index is missing")
    whole = constraints.foreign_keys

    def crying(*args: Any) -> CheckResult:
        found = whole(*args)
        wolf = KeyNotEnforced("rankings", "wolf")
        return CheckResult(found.name, False, True, (*found.findings, wolf), found.figures)

    monkeypatch.setitem(verification._SINGLY, "foreign_keys", crying)
    assert not all(outcome.as_expected for outcome in attack(server))


class _StoppedError(Exception):
    pass


def test_no_database_is_left_after_an_exception(
    server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "an index is missing")

    def stop(*args: Any, **more: Any) -> None:
        assert "pipeline_selftest" in databases(server)
        raise _StoppedError

    monkeypatch.setattr(selftest, "verify_table", stop)
    with pytest.raises(_StoppedError):
        list(attack(server))


def test_no_database_is_left_when_nobody_wants_the_rest(server: URL) -> None:
    running = attack(server)
    assert isinstance(next(running), Outcome)
    assert "pipeline_selftest" in databases(server)
    running.close()  # type: ignore[attr-defined]


def leave_behind(server: URL) -> None:
    """A scratch database, as a selftest that was killed leaves it."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE pipeline_selftest")
    query(libpq(server.set(database="pipeline_selftest")), "CREATE TABLE rankings (id text)")


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    nobody = URL.create("postgresql", username="u", password="geheim", host="127.0.0.1", port=1)
    with pytest.raises(TargetError) as caught:
        list(attack(nobody))
    assert isinstance(caught.value, PipelineError)
    assert "geheim" not in str(caught.value)


@pytest.mark.usefixtures("on_this_server")
def test_the_command_exits_with_one_when_the_proof_is_broken(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few(monkeypatch, "one bit of one BLOB is flipped", "an index is missing")
    monkeypatch.setattr(columns, "_unequal", lambda source, target: None)
    ran = command(monkeypatch, capfd, "selftest")
    assert ran.code == 1
    assert ran.row("one bit of one BLOB is flipped")[0] == "witness"
    assert "unexpected" in ran.out
    assert ran.err.splitlines() == ["unexpected results: one bit of one BLOB is flipped"]
