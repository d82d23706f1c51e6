"""The sources of the benchmark: many rows, large BLOBs, many tables, and a small application.

A source is created once per scale and kept in `bench/data/`; delete that folder to recreate it.
All random values come from one seed, so the same scale gives the same bytes everywhere. All rows
meet the target's contract, so every way moves all of them.
"""

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

DATA = Path(__file__).parent / "data"
SEED = 20250806
SCHEMA_TABLES = 300
SCHEMA_ROWS = 50

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE learning_content (
    id INTEGER NOT NULL PRIMARY KEY, title VARCHAR(200) NOT NULL,
    content_type VARCHAR(50) NOT NULL, language VARCHAR(10) NOT NULL, native_text TEXT NOT NULL,
    translation TEXT NOT NULL, ipa TEXT NOT NULL, difficulty_level INTEGER, tags JSON,
    content_metadata JSON, created_at DATETIME, updated_at DATETIME, last_review_at DATETIME);
CREATE TABLE content_fragments (
    id INTEGER NOT NULL PRIMARY KEY, native_text TEXT NOT NULL, body_text TEXT NOT NULL, ipa TEXT,
    extra TEXT, fragment_type VARCHAR(50) NOT NULL, fragment_metadata JSON, created_at DATETIME,
    updated_at DATETIME, learning_content_id INTEGER NOT NULL REFERENCES learning_content(id));
CREATE TABLE fragment_assets (
    id INTEGER NOT NULL PRIMARY KEY,
    fragment_id INTEGER NOT NULL REFERENCES content_fragments(id),
    asset_type VARCHAR(20) NOT NULL, asset_data BLOB, asset_metadata JSON, created_at DATETIME,
    created_by VARCHAR(100));
CREATE TABLE rankings (
    id INTEGER NOT NULL PRIMARY KEY, fragment_id INTEGER REFERENCES content_fragments(id),
    asset_id INTEGER REFERENCES fragment_assets(id), rank_score FLOAT, assessed_by VARCHAR(100),
    assessment_notes TEXT, created_at DATETIME, updated_at DATETIME);
CREATE TABLE anki_cards (
    id INTEGER NOT NULL PRIMARY KEY, anki_note_id INTEGER UNIQUE, deck_name VARCHAR(255) NOT NULL,
    tags JSON, created_at DATETIME, updated_at DATETIME,
    learning_content_id INTEGER REFERENCES learning_content(id), export_hash TEXT);
CREATE TABLE vector_embeddings (
    id INTEGER NOT NULL PRIMARY KEY, card_id INTEGER NOT NULL REFERENCES anki_cards(id),
    embedding_type VARCHAR(50) NOT NULL, vector_data TEXT, vector_dimension INTEGER NOT NULL,
    created_at DATETIME);
"""
_NOUNS = (
    "ข้าว",
    "น้ำ",
    "บ้าน",
    "ตลาด",
    "รถไฟ",
    "หนังสือ",
    "แมว",
    "ทะเล",
    "เพื่อน",
    "ดอกไม้",
    "เวลา",
    "ภาษา",
)
_VERBS = ("กิน", "ดู", "รัก", "ซื้อ", "หา", "จำ", "เห็น", "ชอบ")
_TYPES = ("real_life_example", "target_learning_item", "basic_meaning", "usage_tip")
_START = datetime(2025, 1, 1)

Row = tuple[object, ...]


@dataclass(frozen=True)
class Shape:
    """The number of rows of a source; asset sizes are uniform between two numbers of bytes."""

    contents: int
    fragments_per_content: int
    assets: int
    rankings_per_asset: int
    smallest: int
    largest: int

    @property
    def fragments(self) -> int:
        """Number of rows of content_fragments."""
        return self.contents * self.fragments_per_content


def make_rows(path: Path, scale: float) -> None:
    """Create the workload *rows*: 820,000 small rows at scale 1, about 230 MiB."""
    _make(path, Shape(_scaled(20_000, scale), 10, _scaled(100_000, scale), 5, 102, 1_946))


def make_blobs(path: Path, scale: float) -> None:
    """Create the workload *blobs*: 1,000 assets of 0.05 to 1 MiB at scale 1, about 500 MiB."""
    _make(path, Shape(_scaled(200, scale), 10, _scaled(1_000, scale), 1, 51 << 10, 973 << 10))


def make_schema(path: Path, _: float) -> None:
    """Create the workload *schema*: 300 tables of at most 50 rows at every scale.

    Each has a key, a unique name, a CHECK, defaults, an index, and up to two foreign keys.
    """
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    rng = random.Random(SEED)
    counts: list[int] = []
    with closing(sqlite3.connect(unfinished)) as connection, connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        for number in range(SCHEMA_TABLES):
            parents = [at for at in (number // 2, number - 7) if 0 <= at < number and counts[at]]
            connection.executescript(_schema_table(number, parents))
            counts.append(number * 37 % (SCHEMA_ROWS + 1))
            marks = ", ".join("?" * (8 + len(parents)))
            rows = _schema_rows(counts[number], [counts[at] for at in parents], rng)
            connection.executemany(f"INSERT INTO t{number:03} VALUES ({marks})", rows)
    unfinished.rename(path)


def make_application(path: Path, scale: float) -> None:
    """Create the workload *application*: 153 rows in four tables at scale 1, 2 MiB in all."""
    _make(path, Shape(_scaled(17, scale), 4, _scaled(34, scale), 1, 20 << 10, 100 << 10))


MAKERS = {
    "rows": make_rows,
    "blobs": make_blobs,
    "schema": make_schema,
    "application": make_application,
}


def source_of(workload: str, scale: float) -> Path:
    """The absolute path of a workload's SQLite file, which is created if it is missing."""
    path = DATA.resolve() / f"{workload}-{scale:g}.db"
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        MAKERS[workload](path, scale)
    return path


def _schema_table(number: int, parents: Sequence[int]) -> str:
    name = f"t{number:03}"
    keys = "".join(
        f", parent_{at} INTEGER REFERENCES t{parent:03}(id)" for at, parent in enumerate(parents)
    )
    return f"""
CREATE TABLE {name} (
    id INTEGER PRIMARY KEY, name VARCHAR(80) NOT NULL UNIQUE,
    amount INTEGER NOT NULL DEFAULT 0 CHECK (amount >= 0), rate REAL DEFAULT 0.5,
    state TEXT NOT NULL DEFAULT 'new', note TEXT, created_at DATETIME, active BOOLEAN{keys});
CREATE INDEX {name}_state ON {name} (state, created_at);
"""


def _schema_rows(count: int, parents: Sequence[int], rng: random.Random) -> Iterator[Row]:
    for i in range(1, count + 1):
        keys = [rng.randint(1, parent) for parent in parents]
        note = None if i % 3 else f"note {i}"
        values = (rng.randint(0, 9_999), rng.random(), rng.choice(("new", "open", "done")), note)
        yield i, f"name {i}", *values, _stamp(i), i % 2, *keys


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _make(path: Path, shape: Shape) -> None:
    """Write a source beside `path` and rename it, so that an incomplete one is never used."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    rng = random.Random(SEED)
    connection = sqlite3.connect(unfinished)
    connection.executescript(_SCHEMA)
    tables = {
        "learning_content": _contents(shape, rng),
        "content_fragments": _fragments(shape, rng),
        "fragment_assets": _assets(shape, rng),
        "rankings": _rankings(shape, rng),
        "anki_cards": _cards(shape),
    }
    with connection:
        for table, rows in tables.items():
            width = len(connection.execute(f"PRAGMA table_info({table})").fetchall())
            marks = ", ".join("?" * width)
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    connection.close()
    unfinished.rename(path)


def _stamp(seconds: int) -> str:
    moment = _START + timedelta(seconds=seconds * 11, microseconds=seconds * 104_729 % 1_000_000)
    return moment.isoformat(" ", "microseconds")


def _contents(shape: Shape, rng: random.Random) -> Iterator[Row]:
    for i in range(1, shape.contents + 1):
        word = rng.choice(_NOUNS)
        tags = json.dumps(["beginner", f"topic-{i % 50}"])
        metadata = json.dumps({"original_card_id": i, "frequency": i / 7})
        reviewed = _stamp(i + 9) if i % 3 == 0 else None
        text = (f"{word} (item {i})", "vocabulary", "thai", word, f"meaning {i}", "[kʰâːw]")
        yield i, *text, i % 5 + 1, tags, metadata, _stamp(i), _stamp(i + 5), reviewed


def _fragments(shape: Shape, rng: random.Random) -> Iterator[Row]:
    for i in range(1, shape.fragments + 1):
        native = f"{rng.choice(_VERBS)}{rng.choice(_NOUNS)} ตัวอย่างที่ {i}"
        body = f"Example number {i}, as heard in a shop"
        extra = "often heard" if i % 2 else None
        metadata = json.dumps({"job_id": f"{i:032x}"})
        parent = (i - 1) // shape.fragments_per_content + 1
        text = (native, body, "[pʰǒm tɕʰɔ̂ːp]", extra, _TYPES[i % len(_TYPES)], metadata)
        yield i, *text, _stamp(i), _stamp(i + 1), parent


def _assets(shape: Shape, rng: random.Random) -> Iterator[Row]:
    metadata = json.dumps({"tts_model": "gpt-4o-mini-tts"})
    for i in range(1, shape.assets + 1):
        data = rng.randbytes(rng.randint(shape.smallest, shape.largest))
        author = "system" if i % 2 == 0 else None
        yield i, (i - 1) % shape.fragments + 1, "audio", data, metadata, _stamp(i), author


def _rankings(shape: Shape, rng: random.Random) -> Iterator[Row]:
    for i in range(1, shape.assets * shape.rankings_per_asset + 1):
        asset = (i - 1) // shape.rankings_per_asset + 1
        score = rng.randint(0, 500) / 100
        notes = "clear" if i % 4 == 0 else None
        fragment = (asset - 1) % shape.fragments + 1
        yield i, fragment, asset, score, f"user{i % 5}", notes, _stamp(i), _stamp(i + 2)


def _cards(shape: Shape) -> Iterator[Row]:
    tags = json.dumps(["sync::success"])
    for i in range(1, shape.contents + 1):
        yield i, 1_700_000_000_000 + i, "top-thai-2000", tags, _stamp(i), _stamp(i), i, f"{i:032x}"
