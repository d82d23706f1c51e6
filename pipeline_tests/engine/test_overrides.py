"""Rejected rows are exported, mended by a person, fed back and moved; the source stays as it is."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import OverrideError
from pipeline.core.findings import Overridden
from pipeline.mapping.contract import StoredValue
from pipeline.migrations.content import metadata
from pipeline.move.ledger import overrides
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.reporting import quarantine_files
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query, reasons

NAMES = [table.name for table in metadata.sorted_tables]
VALUES = st.one_of(
    st.just(StoredValue("c", "null", None)),
    st.integers(-(2**63), 2**63 - 1).map(lambda i: StoredValue("c", "integer", str(i).encode())),
    st.floats(allow_nan=False).map(lambda f: StoredValue("c", "real", struct.pack(">d", f))),
    st.text().map(lambda t: StoredValue("c", "text", t.encode("utf-8", "surrogatepass"))),
    st.binary().map(lambda b: StoredValue("c", "text", b)),
    st.binary().map(lambda b: StoredValue("c", "blob", b)),
)


def exported(url: str) -> list[dict[str, str]]:
    with Target.connect(url, shown="the target") as target:
        return list(overrides.export(target, metadata.sorted_tables))


def feed_back(url: str, records: list[dict[str, Any]]) -> int:
    with Target.connect(url, shown="the target") as target, target.transaction():
        schema.make_ledger(target)
        return overrides.import_overrides(target, records, metadata.sorted_tables)


def override(url: str, table: str, row_id: int, column: str, storage: str, value: str) -> None:
    """Export quarantine, change one value, feed the file back."""
    records = exported(url)
    (record,) = (
        r for r in records if (r["table"], r["row_id"], r["column"]) == (table, str(row_id), column)
    )
    record |= {"storage": storage, "value": value}
    assert feed_back(url, records) == 1


@given(value=VALUES)
def test_every_value_reads_back_as_it_was_written(value: StoredValue) -> None:
    storage, text = overrides._written(value)
    assert overrides._read(1, {"storage": storage, "value": text}, "c") == value


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_file_that_was_not_changed_mends_nothing(
    suffix: str, source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    texts = ["a\r\nb\nc", "\u2028\u0085\x0b", '"quoted", ', "=1+1", "\ufeff", "ไทย 🥭"]
    for at, text in enumerate(texts, start=1):
        source.add("learning_content", {"id": at, "native_text": text, "tags": "{"})
    source.run("UPDATE learning_content SET title = CAST(x'ff00fe' AS TEXT) WHERE id = 1")
    move_all(source.path, target_url)
    file = tmp_path / f"quarantine{suffix}"
    assert quarantine_files.write(file, exported(target_url)) == 13 * len(texts)
    records = list(quarantine_files.read(file))
    found = [r["value"] for r in records if r["column"] == "native_text"]
    assert found == texts
    assert feed_back(target_url, records) == 0


def test_a_mended_value_frees_its_row_and_the_rows_that_waited_for_it(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE learning_content SET tags = 'food, fruit' WHERE id = 2")
    before = source.path.read_bytes()
    move_all(source.path, target_url)
    assert reasons(target_url, "content_fragments") == {"3": {"held"}, "4": {"held"}}
    override(target_url, "learning_content", 2, "tags", "text", '["food", "fruit"]')
    moves = move_all(source.path, target_url)
    assert all(not reasons(target_url, name) for name in NAMES)
    assert query(target_url, "SELECT tags FROM learning_content WHERE id = 2") == [
        (["food", "fruit"],)
    ]
    assert query(target_url, "SELECT count(*) FROM rankings") == [(8,)]
    (check,) = (c for c in moves["learning_content"].checks if c.name == "overrides")
    assert check.findings == (
        Overridden("learning_content", "2", "tags", "food, fruit", '["food", "fruit"]', True),
    )
    assert not check.passed
    assert not check.blocking
    assert source.path.read_bytes() == before
    again = move_all(source.path, target_url)
    assert {move.strategy for move in again.values()} == {"unchanged"}


def test_whoever_corrects_the_source_has_the_last_word(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 1, "tags": "bad"})
    move_all(source.path, target_url)
    override(target_url, "learning_content", 1, "tags", "text", '["mended"]')
    source.run("UPDATE learning_content SET tags = ?", ['["corrected"]'])
    moves = move_all(source.path, target_url)
    assert query(target_url, "SELECT tags FROM learning_content") == [(["corrected"],)]
    (check,) = (c for c in moves["learning_content"].checks if c.name == "overrides")
    assert check.figures == {"values": 1, "outdated": 1}


@pytest.mark.parametrize(
    ("column", "bad", "storage", "value", "expected"),
    [
        ("asset_data", None, "blob", "52494646", b"RIFF"),
        ("asset_type", "smell", "text", "audio", "audio"),
        ("created_at", "yesterday", "null", "", None),
        ("fragment_id", "one", "integer", "1", 1),
    ],
)
def test_values_of_every_kind_can_be_mended(
    column: str,
    bad: object,
    storage: str,
    value: str,
    expected: object,
    source: SourceFile,
    target_url: str,
) -> None:
    source.add("learning_content", {"id": 1})
    source.add("content_fragments", {"id": 1})
    source.add("fragment_assets", {"id": 5, column: bad})
    move_all(source.path, target_url)
    assert "5" in reasons(target_url, "fragment_assets")
    override(target_url, "fragment_assets", 5, column, storage, value)
    move_all(source.path, target_url)
    ((found,),) = query(target_url, f"SELECT {column} FROM fragment_assets WHERE id = 5")
    assert (bytes(found) if isinstance(found, memoryview) else found) == expected


def test_a_second_mend_replaces_the_first_and_forgetting_goes_back_to_the_source(
    source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "bad"}, {"id": 2})
    move_all(source.path, target_url)
    override(target_url, "learning_content", 1, "tags", "text", "still bad")
    move_all(source.path, target_url)
    override(target_url, "learning_content", 1, "tags", "text", '["good"]')
    move_all(source.path, target_url)
    assert query(target_url, "SELECT tags FROM learning_content WHERE id = 1") == [(["good"],)]
    with Target.connect(target_url, shown="the target") as target, target.transaction():
        assert overrides.forget(target, "learning_content") == 1
    move_all(source.path, target_url, delete_share=1)
    assert set(reasons(target_url, "learning_content")) == {"1"}
    (record,) = (r for r in exported(target_url) if r["column"] == "tags")
    assert record["value"] == "bad"


def test_triggers_and_checks_of_the_source_do_not_answer_to_a_mend(
    source: SourceFile, target_url: str
) -> None:
    source.run("ALTER TABLE learning_content ADD COLUMN mood TEXT CHECK (mood IN ('fine'))")
    source.add("learning_content", {"id": 1, "tags": "bad"}, {"id": 2})
    source.run(
        "CREATE TRIGGER touched AFTER UPDATE ON learning_content BEGIN"
        " UPDATE learning_content SET title = 'touched'; END"
    )
    move_all(source.path, target_url)
    override(target_url, "learning_content", 1, "tags", "text", "[]")
    mend_again = exported(target_url)[-1] | {"storage": "text", "value": "sad"}
    assert mend_again["column"] == "mood"
    assert feed_back(target_url, [mend_again]) == 1
    move_all(source.path, target_url)
    assert query(target_url, "SELECT title, mood FROM learning_content ORDER BY id") == [
        ("กิน", "sad"),
        ("กิน", None),
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"row_id": "77"}, "Record 2: tags of row 77 of learning_content is not in quarantine"),
        ({"table": "users"}, "Record 2: tags of row 1 of users is not in quarantine"),
        ({"storage": "integer"}, "Record 2: 'bad' is not a valid integer"),
        ({"storage": "blob"}, "Record 2: 'bad' is not a valid blob"),
        ({"storage": "null"}, "Record 2: the storage of tags is null, but its value is 'bad'"),
        ({"storage": "varchar"}, "Record 2: storage 'varchar' of tags is unknown"),
        ({"storage": "integer", "value": str(2**70)}, "is not a valid integer"),
        ({"storage": "real", "value": "nan"}, "is not a valid real"),
    ],
)
def test_a_record_that_cannot_be_taken_in_is_named_and_nothing_is_noted(
    change: dict[str, str], sentence: str, source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "bad", "title": "x" * 300})
    move_all(source.path, target_url)
    found = {record["column"]: record for record in exported(target_url)}
    good = found["title"] | {"value": "short"}
    with pytest.raises(OverrideError) as raised:
        feed_back(target_url, [good, found["tags"] | change])
    assert sentence in str(raised.value)
    assert query(target_url, "SELECT count(*) FROM migration.overrides") == [(0,)]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("q.txt", "", "ends neither in .csv nor in .json"),
        ("q.json", "{", "does not have the format of an export"),
        ("q.json", "3", "record 1 lacks one of"),
        ("q.csv", "table,row_id\n1,2\n", "record 1 lacks one of"),
    ],
)
def test_a_file_of_another_form_is_refused(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(OverrideError, match=sentence):
        list(quarantine_files.read(file))
    with pytest.raises(OverrideError, match="cannot be read"):
        list(quarantine_files.read(tmp_path / "missing.csv"))


def test_the_commands_export_mend_redrive_and_forget(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE learning_content SET tags = 'bad' WHERE id = 2")
    usual = usable(source, target_url, tmp_path)
    assert pipeline("redrive", **usual).out.splitlines()[-1] == "quarantine is empty"
    assert pipeline("migrate", **usual).code == 0
    file = tmp_path / "q.csv"
    done = pipeline("quarantine", "export", str(file), "--table", "learning_content", **usual)
    assert done.out == f"13 values written to {file}\n"
    file.write_text(file.read_text().replace(",text,bad,", ',text,"[""good""]",'))
    assert (
        "1 corrected value imported" in pipeline("quarantine", "override", str(file), **usual).out
    )
    done = pipeline("redrive", "learning_content", **usual)
    assert done.code == 0, done.err
    assert "0 rows of learning_content are still in quarantine" in done.out
    assert "standing" not in done.out
    done = pipeline("quarantine", "forget", "learning_content", **usual)
    assert "1 corrected value discarded" in done.out
    done = pipeline("redrive", "nothing", **usual)
    assert (done.code, done.out) == (2, "")
    assert "No table is called nothing" in done.err
