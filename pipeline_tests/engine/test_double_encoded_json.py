"""JSON that was written as a string within JSON arrives as what it holds, proven by PostgreSQL."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import LossyConversion
from pipeline.core.findings import Lossy
from pipeline.core.policies import DEFAULT, Policies
from pipeline.declared.rules import TableRules
from pipeline.mapping.casts import json_texts, types
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.run.sync import reason_for_full_comparison
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import sync_all
from pipeline_tests.support.plans import found_by, planned
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import double_encoded, move, one_column
from pipeline_tests.support.targets import new_database, query, reasons
from pipeline_tests.support.verification import broken, opened, standing

DOUBLED, PLAIN = one_column(double_encoded=True), one_column()
KEEP = Policies(double_encoded_json="keep")
few = settings(max_examples=5, phases=[Phase.explicit, Phase.generate, Phase.shrink])
"""Each example is a whole move, of many values."""

STAY = ['"5"', '"true"', '"null"', '"hello"', r'"\"x\""', '""', '"{"', '"{NaN}"', '"[NaN]"']
STAY += ["5", "true", "null", "1.5", '{"a": "{}"}', '["[]"]', '"[1,]"', f'"{"[" * 900}"']


def source_of(folder: Path, *texts: object) -> SourceFile:
    """A source whose only column holds these, with keys from 1."""
    made = SourceFile.make(folder / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT);")
    with closing(sqlite3.connect(made.path)) as connection, connection:
        connection.executemany("INSERT INTO t (value) VALUES (?)", [(text,) for text in texts])
    return made


def values(url: str) -> dict[int, Any]:
    return dict(query(url, "SELECT id, value FROM t"))


def originals(url: str) -> dict[str, tuple[str, str]]:
    found = query(url, "SELECT source_key, original, kept_as FROM migration.conversions")
    return {key: (original, kept) for key, original, kept in found}


def moved(source: SourceFile, url: str, policies: Policies = DEFAULT) -> MoveResult:
    return move(source, url, tables=[DOUBLED], policies=policies)["t"]


def test_what_was_stringified_twice_or_thrice_arrives_as_it_was_meant(
    target_url: str, tmp_path: Path
) -> None:
    meant = {"a": [1, {"b": "ข้าว 😀"}], "c": '"'}
    texts = [double_encoded(meant, times) for times in (1, 2, 3, 4)]
    source = source_of(tmp_path, *texts, None, f"  {double_encoded([], 2)} ")
    move_ = moved(source, target_url)
    assert values(target_url) == {1: meant, 2: meant, 3: meant, 4: meant, 5: None, 6: []}
    assert {key: old for key, (old, _) in originals(target_url).items()} == {
        "2": texts[1],
        "3": texts[2],
        "4": texts[3],
        "6": f"  {double_encoded([], 2)} ",
    }
    assert all(json.loads(kept) in (meant, []) for _, kept in originals(target_url).values())
    assert [found.values for found in found_by(move_, Lossy)] == [4]
    assert moved(source, target_url).strategy == "unchanged"
    assert len(originals(target_url)) == 4


@pytest.mark.parametrize("text", STAY)
def test_what_may_have_been_meant_otherwise_stays_a_string(text: str) -> None:
    assert json_texts.unwrapped(text) is None
    assert json_texts.unwrap(pa.array([text]))[1] is None


def test_strings_without_json_arrive_as_strings(target_url: str, tmp_path: Path) -> None:
    moved(source_of(tmp_path, *STAY), target_url)
    assert list(values(target_url).values()) == [json.loads(text) for text in STAY]
    assert originals(target_url) == {}


def test_a_column_without_the_declaration_and_the_policy_keep_leave_strings_alone(
    target_url: str, tmp_path: Path
) -> None:
    source, text = source_of(tmp_path, double_encoded({"a": 1})), '{"a":1}'
    moved(source, target_url, KEEP)
    assert values(target_url) == {1: text}
    assert moved(source, target_url).strategy == "merged"
    assert values(target_url) == {1: {"a": 1}}
    move(source, target_url, tables=[PLAIN])
    assert values(target_url) == {1: text}
    assert originals(target_url) == {}


def test_more_layers_than_anybody_writes_stay_as_they_are(target_url: str, tmp_path: Path) -> None:
    most, more = json_texts.LAYERS + 1, json_texts.LAYERS + 2
    source = source_of(tmp_path, double_encoded([], most), double_encoded([], more))
    moved(source, target_url)
    assert values(target_url) == {1: [], 2: json.loads(double_encoded([], more))}


REFUSED = [
    r'"{\"a\":\"\\u0000\"}"',
    r'"{\"a\":\"\\ud800\"}"',
    r'"{\"a\":\"\ud800\"}"',
    r'"{\"a\":\"\ud83d\\ude00\"}"',
    r'"\"{\\\"a\\\":\\\"\\ud800\\\"}\""',
]
NO_JSON = '"{}'


def test_what_jsonb_has_no_place_for_goes_to_quarantine(target_url: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, double_encoded({"a": 1}), *REFUSED, NO_JSON)
    assert moved(source, target_url).quarantined_rows == 6
    assert values(target_url) == {1: {"a": 1}}
    found = reasons(target_url, "t")
    assert found == {**{str(key): {"refused"} for key in (2, 3, 4, 5, 6)}, "7": {"json"}}
    source.run("UPDATE t SET value = ? WHERE id = 2", (double_encoded({"mended": True}),))
    assert moved(source, target_url).quarantined_rows == 5
    assert values(target_url)[2] == {"mended": True}


def test_half_a_letter_in_a_string_that_holds_no_json_stays_there(
    target_url: str, tmp_path: Path
) -> None:
    text = r'"\"half \\ud800\""'
    assert moved(source_of(tmp_path, text), target_url).quarantined_rows == 0
    assert values(target_url) == {1: json.loads(text)}


def test_a_name_that_is_there_twice_within_is_told_once(target_url: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, r'"{\"a\":1,\"a\":2}"')
    plan = planned(source, target_url, tmp_path, tables=[DOUBLED])["t"]
    assert [(found.column, found.values) for found in plan.lossy] == [("value", 1)]
    moved(source, target_url)
    assert values(target_url) == {1: {"a": 2}}
    assert originals(target_url) == {"1": (r'"{\"a\":1,\"a\":2}"', '{"a": 2}')}


def test_a_plan_counts_what_would_be_unwrapped(target_url: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, double_encoded([1]), "[1]", '"5"', double_encoded([2], 3))
    plan = planned(source, target_url, tmp_path, tables=[DOUBLED])["t"]
    assert plan.lossy == (
        Lossy(
            "t",
            "value",
            2,
            (("1", double_encoded([1]), "[1]"), ("4", double_encoded([2], 3), "[2]")),
        ),
    )
    assert planned(source, target_url, tmp_path, tables=[DOUBLED], policies=KEEP)["t"].lossy == ()


@pytest.mark.parametrize("of", ["quarantine", "fail"])
def test_a_policy_against_losses_holds_for_what_would_be_unwrapped(
    of: Any, target_url: str, tmp_path: Path
) -> None:
    source, strict = source_of(tmp_path, double_encoded([1]), "[2]"), Policies(lossy_conversions=of)
    if of == "fail":
        with pytest.raises(LossyConversion, match="t 1: value would lose"):
            moved(source, target_url, strict)
        return
    moved(source, target_url, strict)
    assert (values(target_url), reasons(target_url, "t")) == ({2: [2]}, {"1": {"lossy"}})


def test_a_row_that_is_rejected_anyway_tells_that_its_json_would_be_unwrapped(
    target_url: str, tmp_path: Path
) -> None:
    ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT, changed_at TEXT);"
    source = SourceFile.make(tmp_path / "s.db", ddl)
    source.run("INSERT INTO t VALUES (1, ?, 'never')", (double_encoded([1]),))
    move(
        source, target_url, tables=[with_dates()], policies=Policies(lossy_conversions="quarantine")
    )
    assert reasons(target_url, "t") == {"1": {"lossy", "date"}}


def test_verify_finds_what_somebody_wrapped_again_and_an_original_that_is_gone(
    target_url: str, tmp_path: Path
) -> None:
    source = source_of(tmp_path, double_encoded([1]), double_encoded([2]), '"x"')
    moved(source, target_url)
    copy = opened(source.path, tmp_path, [DOUBLED])
    assert broken(standing(target_url, copy, DOUBLED)) == set()
    assert not standing(target_url, copy, DOUBLED)["conversions"].passed
    wrong = "UPDATE t SET value = '\"[1]\"' WHERE id = 1"
    assert broken(standing(target_url, copy, DOUBLED, planted=wrong)) == {"digests"}
    gone = "DELETE FROM migration.conversions WHERE source_key = '2'"
    assert broken(standing(target_url, copy, DOUBLED, planted=gone)) == {"digests"}
    assert broken(standing(target_url, copy, DOUBLED, policies=KEEP)) == {"digests"}


@pytest.mark.parametrize("wrongly", ['{"b":1}', None], ids=["another value", "not at all"])
def test_a_cast_that_unwraps_wrongly_does_not_prove_itself(
    wrongly: str | None, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwrap(texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        if wrongly is None:
            return texts, None
        return pa.array([wrongly] * len(texts)), pa.array([True] * len(texts))

    monkeypatch.setattr(types, "unwrap", unwrap)
    with pytest.raises(ProofFailed, match="digests"):
        moved(source_of(tmp_path, double_encoded({"a": 1})), target_url)


def test_an_original_is_kept_even_if_the_cast_forgets_to_say_so(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = types.unwrap
    monkeypatch.setattr(types, "unwrap", lambda texts: (really(texts)[0], None))
    moved(source_of(tmp_path, double_encoded([1]), "[2]"), target_url)
    assert originals(target_url) == {"1": (double_encoded([1]), "[1]")}


def test_a_sync_unwraps_in_either_mode_and_keeps_the_originals_of_what_is_there(
    mode: str, target_url: str, tmp_path: Path
) -> None:
    declared = with_dates()
    ddl = "CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT, changed_at TEXT);"
    source = SourceFile.make(tmp_path / "s.db", ddl)
    for key in (1, 2, 3):
        source.run("INSERT INTO t VALUES (?, ?, '2024-01-01')", (key, double_encoded([key])))
    if mode == "tracked":
        tracking.switch_on(source.path, [declared])
    move(source, target_url, tables=[declared])
    source.run(
        "UPDATE t SET value = ?, changed_at = '2024-01-02' WHERE id = 1", (double_encoded([9], 3),)
    )
    source.run("UPDATE t SET value = '[8]', changed_at = '2024-01-02' WHERE id = 2")
    move_ = sync_all(source.path, target_url, tables=[declared])["t"]
    assert (move_.strategy, move_.written_rows) == ("synced", 2)
    assert values(target_url) == {1: [9], 2: [8], 3: [3]}
    kept = {key: old for key, (old, _) in originals(target_url).items()}
    assert kept == {"1": double_encoded([9], 3), "3": double_encoded([3])}


def test_another_policy_lets_a_sync_look_at_every_value(target_url: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, double_encoded([1]))
    moved(source, target_url, KEEP)
    with (
        Target.connect(target_url, shown="the target") as target,
        pinned(source.path, tmp_path / "live", tables=[DOUBLED]) as live,
    ):
        assert (
            reason_for_full_comparison([DOUBLED], live=live, target=target, policies=KEEP) is None
        )
        why = reason_for_full_comparison([DOUBLED], live=live, target=target)
    assert why == "columns or policies of t have changed"


def with_dates() -> sa.Table:
    declared = one_column(double_encoded=True)
    declared.append_column(sa.Column("changed_at", sa.DateTime(timezone=True)))
    declared.info |= TableRules(changed_by="changed_at").info
    return declared


_LETTERS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=6
) | st.sampled_from(['{"a":1}', "[]", '"[1]"', "null", "{", "\\", '"', "กิน", "\u2028"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | _LETTERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_LETTERS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def target(server: URL) -> Iterator[str]:
    """One database for all; every move begins with dropping what the last one left."""
    with new_database(server, "doubled") as made:
        yield libpq(made)


def _meant(text: str) -> tuple[Any, bool]:
    """What a text means, and whether strings were taken off; told by Python's reader alone."""
    first = found = json.loads(text)
    while isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            break
    wrapped = isinstance(first, str) and isinstance(found, dict | list)
    return (found if wrapped else first), wrapped


@few
@given(st.lists(st.tuples(_JSON, st.integers(1, 5), st.booleans()), min_size=30, max_size=60))
@example([({"a": 1}, times, True) for times in range(1, 6)])
def test_random_json_arrives_as_it_was_meant_however_often_it_was_stringified(
    tmp_path_factory: pytest.TempPathFactory, target: str, rows: list[tuple[Any, int, bool]]
) -> None:
    query(target, "DROP TABLE IF EXISTS t; DROP SCHEMA IF EXISTS migration CASCADE")
    texts = []
    for value, times, ascii_ in rows:
        text = value
        for _ in range(times):
            text = json.dumps(text, ensure_ascii=ascii_)
        texts.append(text)
    source = source_of(tmp_path_factory.mktemp("random"), *texts)
    assert moved(source, target).quarantined_rows == 0
    meant = {key: _meant(text) for key, text in enumerate(texts, 1)}
    assert values(target) == {key: value for key, (value, _) in meant.items()}
    assert originals(target).keys() == {str(key) for key, (_, wrapped) in meant.items() if wrapped}
