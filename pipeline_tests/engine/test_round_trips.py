"""A session sends few messages: literals, deferred statements and combined questions."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from bench.proxy import Proxy, relay
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.driver.statements import Question, inline, single
from pipeline.postgres.target import Target

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    _TEXT,
    st.lists(_TEXT, min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
)


@pytest.fixture(scope="module")
def proxy(server: URL) -> Iterator[Proxy]:
    with relay(server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def target(proxy: Proxy) -> Iterator[Target]:
    with Target.connect(libpq(proxy.url), shown="the target") as target:
        yield target


BROKEN: Question[int] = Question("SELECT 1 / 0 AS x", (), len)


def _answers(column: str) -> Question[list[object]]:
    return Question(
        f"SELECT {column} AS x FROM pg_temp.t ORDER BY 1", (), lambda r: [x for (x,) in r]
    )


@given(first=_VALUES, second=_TEXT)
def test_a_parameter_arrives_as_it_was(target: Target, first: object, second: str) -> None:
    sql = "SELECT $1 AS \"$2\", '$2', $2"
    assert target.rows(sql, (first, second)) == [(first, "$2", second)]


def test_a_setting_that_a_trigger_leaves_behind_changes_no_literal(target: Target) -> None:
    given = ["a\\", "'\\'; --", '"\\"', "\\x00"]
    with target.transaction():
        target.run("SET LOCAL standard_conforming_strings = off")
        assert target.rows("SELECT $1, $2", (given, given[1])) == [(given, given[1])]


def test_a_text_with_a_null_character_is_refused_by_the_server(target: Target) -> None:
    for value in ("a\0b", ["a", "a\0b"]):
        with pytest.raises(DataFault) as refused:
            target.rows("SELECT $1", (value,))
        assert refused.value.sqlstate == "22021"


def test_an_empty_list_takes_the_type_of_what_it_is_compared_with(target: Target) -> None:
    for column in ("1", "'a'::text", "'\\x00'::bytea"):
        assert target.value(f"SELECT {column} = ANY($1)", ([],)) is False


def test_a_value_without_a_literal_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes has no literal"):
        inline("SELECT $1", (b"secret",))


def test_every_call_is_one_round_trip(target: Target, proxy: Proxy) -> None:
    proxy.taken()
    with target.transaction():
        target.mark_as_move()
        target.run("CREATE TEMPORARY TABLE t (x int) ON COMMIT DROP", "INSERT INTO t VALUES (1)")
        assert proxy.taken().round_trips == 1
        assert target.value("SELECT x FROM pg_temp.t WHERE x = $1", (1,)) == 1
        assert proxy.taken().round_trips == 1
        with target.prefetched(_answers("x"), _answers("x + 1")):
            assert target.answer(_answers("x")) == [1]
            assert target.answer(_answers("x + 1")) == [2]
        assert proxy.taken().round_trips == 1
        target.defer("INSERT INTO pg_temp.t VALUES ($1)", (2,))
        target.defer("INSERT INTO pg_temp.t VALUES (3)")
        assert proxy.taken().round_trips == 0
    counts = proxy.taken()
    assert counts.round_trips == 1
    assert counts.statements == [
        "INSERT INTO pg_temp.t VALUES ('2'::bigint);\nINSERT INTO pg_temp.t VALUES (3);\n"
        "SELECT;\nCOMMIT"
    ]


def test_questions_of_hundreds_of_tables_are_asked_together(target: Target) -> None:
    asked = [Question(f"SELECT {number} AS x", (), single) for number in range(300)]
    with target.prefetched(*asked):
        assert [target.answer(each) for each in asked] == list(range(300))


def test_what_was_prefetched_is_what_was_true_at_the_beginning(target: Target) -> None:
    with target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int) ON COMMIT DROP")
        with target.prefetched(_answers("x")):
            target.run("INSERT INTO pg_temp.t VALUES (1)")
            assert target.answer(_answers("x")) == []
        assert target.answer(_answers("x")) == [1]


def test_a_refused_question_is_asked_by_itself(target: Target) -> None:
    with target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int) ON COMMIT DROP")
        with target.prefetched(BROKEN, _answers("x"), risky=True):
            assert target.answer(_answers("x")) == []
        target.run("INSERT INTO pg_temp.t VALUES (1)")
        assert target.answer(_answers("x")) == [1]


def test_a_deferred_statement_fails_at_the_next_call_and_within_its_savepoint(
    target: Target,
) -> None:
    with target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int CHECK (x > 0)) ON COMMIT DROP")
        with pytest.raises(DataFault), target.savepoint():
            target.defer("INSERT INTO pg_temp.t VALUES (-1)")
        target.defer("INSERT INTO pg_temp.t VALUES (1)")
        assert target.answer(_answers("x")) == [1]


def test_savepoints_within_savepoints_undo_only_their_own(target: Target) -> None:
    with target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int CHECK (x > 0)) ON COMMIT DROP")
        with target.savepoint():
            with pytest.raises(DataFault), target.savepoint():
                target.run("INSERT INTO pg_temp.t VALUES (0)")
            with target.savepoint():
                pass
            target.run("INSERT INTO pg_temp.t VALUES (1)")
            with target.rolled_back():
                target.run("INSERT INTO pg_temp.t VALUES (2)")
                with target.savepoint():
                    target.run("INSERT INTO pg_temp.t VALUES (3)")
            with target.rolled_back():
                target.defer("INSERT INTO pg_temp.t VALUES (4)")
            with target.rolled_back():
                target.run("INSERT INTO pg_temp.t VALUES (5)")
                with target.rolled_back():
                    target.run("INSERT INTO pg_temp.t VALUES (6)")
        assert target.answer(_answers("x")) == [1]


def test_a_transaction_that_sent_nothing_sends_nothing(target: Target, proxy: Proxy) -> None:
    proxy.taken()
    with pytest.raises(KeyError), target.transaction():
        raise KeyError
    with target.read_only():
        pass
    assert proxy.taken().round_trips == 0
    assert target.value("SELECT 1") == 1


def test_an_error_of_a_deferred_statement_is_not_taken_for_one_of_what_follows(
    target: Target,
) -> None:
    with pytest.raises(TargetError, match="null value in column"), target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int NOT NULL) ON COMMIT DROP")
        target.defer("INSERT INTO pg_temp.t VALUES (NULL)")
        with suppress(DataFault), target.savepoint():
            target.run("SELECT 1")


def test_a_transaction_with_an_error_does_not_commit(target: Target) -> None:
    with pytest.raises(TargetError, match="current transaction is aborted"), target.transaction():
        target.run("CREATE TEMPORARY TABLE t (x int)")
        with suppress(DataFault):
            target.run("SELECT 1 / 0")


def test_a_value_refused_outside_a_transaction_is_an_error_with_a_sentence(target: Target) -> None:
    for ask in (lambda: target.run("SELECT 1 / 0"), lambda: target.answer(BROKEN)):
        with pytest.raises(TargetError, match="division by zero"):
            ask()


def test_a_column_may_have_any_name(target: Target) -> None:
    named = Question('SELECT 1 AS r, 2 AS "json_agg", 3 AS "a b\'"', (), list)
    assert target.answer(named) == [(1, 2, 3)]
