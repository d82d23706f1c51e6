"""The sample source: deterministic, playable, flawed as announced, and never half written."""

import io
import json
import sqlite3
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.migrations.content_sample import make_sample
from pipeline_tests.support.sources import rows

MOVED = ("learning_content", "content_fragments", "fragment_assets", "rankings")


TABLES = (*MOVED, "anki_cards", "vector_embeddings")


FRAGMENT_TYPES = {
    "real_life_example",
    "target_learning_item",
    "basic_meaning",
    "pronunciation_and_tone",
    "usage_example",
    "usage_tip",
}


JSON_COLUMNS = {
    "learning_content": ("tags", "content_metadata"),
    "content_fragments": ("fragment_metadata",),
    "fragment_assets": ("asset_metadata",),
    "anki_cards": ("tags",),
}


DATE_COLUMNS = {
    "learning_content": ("created_at", "updated_at", "last_review_at"),
    "content_fragments": ("created_at", "updated_at"),
    "fragment_assets": ("created_at",),
    "rankings": ("created_at", "updated_at"),
    "anki_cards": ("created_at", "updated_at"),
    "vector_embeddings": ("created_at",),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "source.db"
    make_sample(path)
    return path


@pytest.fixture
def source(sample: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{sample.as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA case_sensitive_like = ON")
        yield connection


def ids(source: sqlite3.Connection, query: str) -> list[int]:
    return [i for (i,) in source.execute(query)]


def test_the_same_seed_gives_the_same_rows(sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "again.db")
    for table in TABLES:
        assert rows(tmp_path / "again.db", table) == rows(sample, table)


def test_another_seed_gives_other_rows(sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "other.db", seed=8)
    for table in TABLES:
        assert rows(tmp_path / "other.db", table) != rows(sample, table)


def test_the_file_stands_alone(sample: Path, source: sqlite3.Connection) -> None:
    assert source.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert source.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [path.name for path in sample.parent.iterdir()] == ["source.db"]


def test_every_word_has_what_the_application_keeps(source: sqlite3.Connection) -> None:
    counts = {
        table: source.execute(f"SELECT count(*) FROM {table} WHERE id < 9000").fetchone()[0]
        for table in TABLES
    }
    assert counts["learning_content"] == 60
    assert 240 <= counts["content_fragments"] <= 360
    assert 120 <= counts["fragment_assets"] <= 300
    assert counts["anki_cards"] == 64
    assert counts["vector_embeddings"] == 15
    words = ids(source, "SELECT id FROM learning_content ORDER BY id")
    cards = ids(source, "SELECT learning_content_id FROM anki_cards ORDER BY 1")
    assert cards == words
    levels = ids(source, "SELECT DISTINCT difficulty_level FROM learning_content WHERE id < 9000")
    assert sorted(levels) == [1, 2, 3, 4, 5]
    kinds = source.execute("SELECT DISTINCT fragment_type FROM content_fragments")
    assert {kind for (kind,) in kinds} == FRAGMENT_TYPES


def test_rankings_rate_fragments_and_assets(source: sqlite3.Connection) -> None:
    shapes = source.execute(
        "SELECT fragment_id IS NOT NULL, asset_id IS NOT NULL FROM rankings WHERE id < 9000"
    )
    found = Counter(shapes)
    assert set(found) == {(1, 0), (1, 1), (0, 1)}
    assert min(found.values()) > 20


def test_cards_and_vectors_look_like_the_applications(source: sqlite3.Connection) -> None:
    cards = source.execute("SELECT anki_note_id, deck_name, tags, export_hash FROM anki_cards")
    for note, deck, tags, export_hash in cards:
        assert deck == "top-thai-2000"
        assert ("sync::success" in json.loads(tags)) == (note is not None)
        assert (export_hash is None) == (note is None)
    assert ids(source, "SELECT count(*) FROM anki_cards WHERE anki_note_id IS NULL") != [0]
    vectors = source.execute("SELECT vector_data, vector_dimension FROM vector_embeddings")
    for data, dimension in vectors:
        assert dimension == 384
        assert [type(x) for x in json.loads(data)] == [float] * 384


def test_every_audio_asset_plays(source: sqlite3.Connection) -> None:
    sounds = source.execute(
        "SELECT asset_data FROM fragment_assets WHERE asset_type = 'audio' AND id <> 9002"
    ).fetchall()
    assert len(sounds) > 100
    for (blob,) in sounds:
        assert 10_000 <= len(blob) <= 30_000
        with wave.open(io.BytesIO(blob)) as sound:
            assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (
                1,
                2,
                8000,
            )
            frames = sound.readframes(sound.getnframes())
        assert len(frames) == 2 * sound.getnframes()
        peak = max(abs(sample) for sample in memoryview(frames).cast("h"))
        assert 15_000 < peak < 32_767


def test_the_pitch_follows_the_tone(source: sqlite3.Connection) -> None:
    def crossings(native: str) -> tuple[int, int]:
        (blob,) = source.execute(
            "SELECT asset_data FROM fragment_assets a JOIN content_fragments f"
            " ON f.id = a.fragment_id WHERE fragment_type = 'target_learning_item'"
            " AND native_text = ? ORDER BY a.id",
            (native,),
        ).fetchone()
        with wave.open(io.BytesIO(blob)) as sound:
            samples = memoryview(sound.readframes(sound.getnframes())).cast("h").tolist()
        rises = [a < 0 <= b for a, b in pairwise(samples)]
        half = len(rises) // 2
        return sum(rises[:half]), sum(rises[half:])

    early, late = crossings("หมา")  # rising
    assert late > early
    early, late = crossings("บ้าน")  # falling
    assert late < early


def test_dates_come_in_three_shapes_and_json_in_two_nulls(source: sqlite3.Connection) -> None:
    shapes: Counter[str] = Counter()
    for table, columns in DATE_COLUMNS.items():
        for column in columns:
            query = f"SELECT {column} FROM {table} WHERE id < 9000 AND {column} IS NOT NULL"
            for (text,) in source.execute(query):
                moment = datetime.fromisoformat(text)
                assert (moment.tzinfo is not None) == ("T" in text)
                shapes["offset" if moment.tzinfo else "fraction" if "." in text else "plain"] += 1
    assert set(shapes) == {"offset", "fraction", "plain"}
    assert min(shapes.values()) > 100
    nulls: Counter[object] = Counter()
    for table, columns in JSON_COLUMNS.items():
        for column in columns:
            for (text,) in source.execute(f"SELECT {column} FROM {table} WHERE id < 9000"):
                if text is None or json.loads(text) is None:
                    nulls[text] += 1
    assert set(nulls) == {None, "null"}


def test_every_row_below_9000_fits_the_target(source: sqlite3.Connection) -> None:
    for table in MOVED:
        for row in source.execute(f"SELECT * FROM {table} WHERE id < 9000"):
            assert not any("\0" in value for value in row if isinstance(value, str))
    for table, column, parent in [
        ("content_fragments", "learning_content_id", "learning_content"),
        ("fragment_assets", "fragment_id", "content_fragments"),
        ("rankings", "fragment_id", "content_fragments"),
        ("rankings", "asset_id", "fragment_assets"),
    ]:
        query = (
            f"SELECT id FROM {table} WHERE id < 9000 AND {column} IS NOT NULL"
            f" AND {column} NOT IN (SELECT id FROM {parent} WHERE id < 9000)"
        )
        assert ids(source, query) == []
    for unfit in (
        "SELECT id FROM learning_content WHERE id < 9000 AND length(title) > 200",
        "SELECT id FROM fragment_assets WHERE id < 9000 AND asset_type <> 'audio'",
        "SELECT id FROM fragment_assets WHERE id < 9000 AND asset_data IS NULL",
        "SELECT id FROM rankings WHERE id < 9000 AND assessed_by IS NULL",
        "SELECT id FROM rankings WHERE id < 9000 AND rank_score NOT BETWEEN 0 AND 5",
        "SELECT id FROM rankings WHERE id < 9000 AND rank_score <> round(rank_score, 2)",
    ):
        assert ids(source, unfit) == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SELECT id FROM learning_content WHERE length(title) > 200", [9001]),
        ("SELECT id FROM learning_content WHERE NOT json_valid(ifnull(tags, '[]'))", [9002]),
        (
            "SELECT id FROM learning_content WHERE NOT json_valid(ifnull(content_metadata, '{}'))",
            [9003],
        ),
        ("SELECT id FROM content_fragments WHERE learning_content_id = 99999", [9003]),
        ("SELECT id FROM content_fragments WHERE instr(body_text, char(0))", [9004]),
        ("SELECT id FROM content_fragments WHERE datetime(created_at) IS NULL", [9005]),
        (r"SELECT id FROM content_fragments WHERE fragment_metadata LIKE '%\u0000%'", [9006]),
        ("SELECT id FROM fragment_assets WHERE asset_data IS NULL", [9002]),
        ("SELECT id FROM fragment_assets WHERE asset_type = 'document'", [9003]),
        ("SELECT id FROM rankings WHERE rank_score NOT BETWEEN 0 AND 5", [9003]),
        ("SELECT id FROM rankings WHERE assessed_by IS NULL", [9004]),
        ("SELECT id FROM rankings WHERE asset_id = 99999", [9005]),
        ("SELECT id FROM rankings WHERE round(rank_score, 2) <> rank_score", [9011, 9012, 9013]),
    ],
)
def test_a_flaw_is_where_it_is_announced(
    source: sqlite3.Connection, query: str, found: list[int]
) -> None:
    assert ids(source, query) == found


def test_one_text_is_not_utf8(sample: Path) -> None:
    broken = []
    for table in MOVED:
        with closing(sqlite3.connect(sample)) as source:
            source.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            for number, *values in source.execute(f"SELECT * FROM {table}"):
                texts = [value for value in values if isinstance(value, str)]
                if any("\udc80" <= char <= "\udcff" for text in texts for char in text):
                    broken.append((table, number))
    assert broken == [("learning_content", 9004)]


def test_the_long_title_has_rows_below_it(source: sqlite3.Connection) -> None:
    fragments = "SELECT id FROM content_fragments WHERE learning_content_id = 9001"
    assets = f"SELECT id FROM fragment_assets WHERE fragment_id IN ({fragments})"
    rankings = (
        f"SELECT id FROM rankings WHERE fragment_id IN ({fragments}) OR asset_id IN ({assets})"
    )
    assert ids(source, fragments) == [9001, 9002]
    assert ids(source, assets) == [9001]
    assert ids(source, rankings) == [9001, 9002]


def test_no_other_flawed_row_has_rows_below_it(source: sqlite3.Connection) -> None:
    for query in (
        "SELECT id FROM content_fragments WHERE learning_content_id BETWEEN 9002 AND 9999",
        "SELECT id FROM fragment_assets WHERE fragment_id > 9002",
        "SELECT id FROM rankings WHERE fragment_id > 9002 OR asset_id BETWEEN 9002 AND 9999",
    ):
        assert ids(source, query) == []


def test_missing_folders_are_created(tmp_path: Path) -> None:
    make_sample(tmp_path / "a" / "b" / "source.db")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["source.db"]


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"source\.db exists; move it or choose another path"):
        make_sample(path)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_dangling_link_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    path.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(FileExistsError):
        make_sample(path)
    assert path.is_symlink()
