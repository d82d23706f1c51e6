"""A sample source: a small SQLite file with the schema of the learning application.

The file contains sixty Thai words with all data of the application. Rows with ids from 9001 are
rejected or held by a first migration. The same seed produces the same rows.
"""

import io
import json
import random
import re
import sqlite3
import unicodedata
import wave
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from pipeline.migrations.content_words import SENTENCES, TIPS, Word, words
from pipeline.migrations.sample_file import Row, insert, numbered, write

_SCHEMA = """
CREATE TABLE learning_content (
    id INTEGER NOT NULL PRIMARY KEY, title VARCHAR(200) NOT NULL,
    content_type VARCHAR(50) NOT NULL, language VARCHAR(10) NOT NULL, native_text TEXT NOT NULL,
    translation TEXT NOT NULL, ipa TEXT NOT NULL, difficulty_level INTEGER, tags JSON,
    content_metadata JSON, created_at DATETIME, updated_at DATETIME, last_review_at DATETIME);
CREATE TABLE content_fragments (
    id INTEGER NOT NULL PRIMARY KEY, native_text TEXT NOT NULL, body_text TEXT NOT NULL, ipa TEXT,
    extra TEXT, fragment_type VARCHAR(50) NOT NULL, fragment_metadata JSON, created_at DATETIME,
    updated_at DATETIME, learning_content_id INTEGER NOT NULL REFERENCES learning_content (id));
CREATE TABLE fragment_assets (
    id INTEGER NOT NULL PRIMARY KEY,
    fragment_id INTEGER NOT NULL REFERENCES content_fragments (id),
    asset_type VARCHAR(20) NOT NULL, asset_data BLOB, asset_metadata JSON, created_at DATETIME,
    created_by VARCHAR(100));
CREATE TABLE rankings (
    id INTEGER NOT NULL PRIMARY KEY, fragment_id INTEGER REFERENCES content_fragments (id),
    asset_id INTEGER REFERENCES fragment_assets (id), rank_score FLOAT, assessed_by VARCHAR(100),
    assessment_notes TEXT, created_at DATETIME, updated_at DATETIME);
CREATE TABLE anki_cards (
    id INTEGER NOT NULL PRIMARY KEY, anki_note_id INTEGER UNIQUE, deck_name VARCHAR(255) NOT NULL,
    tags JSON, created_at DATETIME, updated_at DATETIME,
    learning_content_id INTEGER REFERENCES learning_content (id), export_hash TEXT);
CREATE TABLE vector_embeddings (
    id INTEGER NOT NULL PRIMARY KEY, card_id INTEGER NOT NULL REFERENCES anki_cards (id),
    embedding_type VARCHAR(50) NOT NULL, vector_data TEXT, vector_dimension INTEGER NOT NULL,
    created_at DATETIME);
CREATE TABLE vector_search (
    id INTEGER NOT NULL PRIMARY KEY, card_id INTEGER NOT NULL, embedding_type VARCHAR(50) NOT NULL,
    vector BLOB NOT NULL);
"""

# Each row has one fault. Columns that are missing in an INSERT are nullable.
_FLAWS = r"""
-- A title of 208 characters where the target takes 200. What hangs below it waits for it:
-- fragments 9001 and 9002, asset 9001 and rankings 9001 and 9002 are sound but have no parent.
INSERT INTO learning_content VALUES (9001, replace(hex(zeroblob(26)), '00', 'ภาษาไทย '),
    'vocabulary', 'thai', 'ภาษาไทย', 'Thai language', '[pʰaː.sǎː tʰaj]', 2, '["school"]', NULL,
    '2025-03-04 08:00:00', '2025-03-04 08:00:00', NULL);
INSERT INTO content_fragments
    (id, native_text, body_text, fragment_type, created_at, learning_content_id) VALUES
    (9001, 'ภาษาไทย', 'Thai language', 'target_learning_item', '2025-03-04 08:00:01', 9001),
    (9002, 'ผมเรียนภาษาไทย', 'I study Thai.', 'real_life_example', '2025-03-04 08:00:02', 9001);
INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data, created_at)
    SELECT 9001, 9001, 'audio', asset_data, '2025-03-04 08:00:03' FROM fragment_assets WHERE id = 1;
INSERT INTO rankings (id, fragment_id, asset_id, rank_score, assessed_by, created_at) VALUES
    (9001, 9001, NULL, 4.5, 'somchai', '2025-03-04 09:00:00'),
    (9002, 9001, 9001, 3.5, 'malee', '2025-03-04 09:00:01');

INSERT INTO learning_content (id, title, content_type, language, native_text, translation, ipa,
    tags, content_metadata, created_at) VALUES
    -- tags are the repr of a Python list, with single quotes: not JSON.
    (9002, 'มะม่วง (mango)', 'vocabulary', 'thai', 'มะม่วง', 'mango', '[má.mûaŋ]',
     '[''food'', ''fruit'']', NULL, '2025-03-05 08:00:00'),
    -- NaN: Python's json module writes and reads it, but it is not JSON.
    (9003, 'กล้วย (banana)', 'vocabulary', 'thai', 'กล้วย', 'banana', '[klûaj]',
     '["food"]', '{"ease": NaN}', '2025-03-05 08:01:00'),
    -- native_text ends after two of the three bytes of a character: not UTF-8.
    (9004, 'ส้ม (orange)', 'vocabulary', 'thai', CAST(X'E0B8AAE0B989E0B8' AS TEXT), 'orange',
     '[sôm]', '["food"]', NULL, '2025-03-05 08:02:00');

INSERT INTO content_fragments (id, native_text, body_text, fragment_type, fragment_metadata,
    created_at, learning_content_id) VALUES
    -- Content 99999 does not exist.
    (9003, 'สอง', 'Its content is gone.', 'usage_tip', NULL, '2025-03-06 08:00:00', 99999),
    -- A NUL character in body_text, which no PostgreSQL text can hold.
    (9004, 'น้ำ', 'wa' || char(0) || 'ter', 'usage_tip', NULL, '2025-03-06 08:01:00', 1),
    -- created_at is not a date.
    (9005, 'น้ำ', 'Drink it with ice.', 'usage_tip', NULL, 'next tuesday', 1),
    -- An escaped NUL is valid JSON, but jsonb cannot hold it.
    (9006, 'น้ำ', 'Boil it.', 'usage_tip', '{"note": "a\u0000b"}', '2025-03-06 08:03:00', 1);

INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data, created_at) VALUES
    -- asset_data is NOT NULL in the target.
    (9002, 1, 'audio', NULL, '2025-03-07 08:00:00'),
    -- The target takes audio, image and video.
    (9003, 1, 'document', CAST('%PDF-1.4' AS BLOB), '2025-03-07 08:01:00');

INSERT INTO rankings (id, fragment_id, asset_id, rank_score, assessed_by, created_at) VALUES
    -- The target takes scores from 0 to 5.
    (9003, 1, NULL, 7.5, 'somchai', '2025-03-08 08:00:00'),
    -- assessed_by is NOT NULL in the target.
    (9004, 1, NULL, 4.0, NULL, '2025-03-08 08:01:00'),
    -- Asset 99999 does not exist.
    (9005, 1, 99999, 4.0, 'malee', '2025-03-08 08:02:00'),
    -- No faults: these move, but numeric(3,2) keeps only two of their decimals.
    (9011, 1, NULL, 3.14159, 'somchai', '2025-03-08 08:03:00'),
    (9012, 1, NULL, 2.6666666666666665, 'average', '2025-03-08 08:04:00'),
    (9013, 1, NULL, 4.333333333333333, 'average', '2025-03-08 08:05:00');
"""

# A tone mark of IPA: the tone's name, and its pitch in semitones at the start, the middle and the
# end of a syllable.
_TONES = {
    "": ("mid", (0, 0, -1)),
    "\N{COMBINING GRAVE ACCENT}": ("low", (-2, -4, -6)),
    "\N{COMBINING CIRCUMFLEX ACCENT}": ("falling", (4, 6, -5)),
    "\N{COMBINING ACUTE ACCENT}": ("high", (2, 3, 6)),
    "\N{COMBINING CARON}": ("rising", (-3, -6, 4)),
}
_RATE = 8000
_BANGKOK = timezone(timedelta(hours=7))
_NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)


def make_sample(path: Path, *, seed: int = 7) -> None:
    """Create a sample source with seven tables, faulty rows included.

    Raises:
        FileExistsError: the path exists; it does not change.
    """
    write(path, lambda source: _fill(source, random.Random(seed)))


def _fill(source: sqlite3.Connection, rng: random.Random) -> None:
    source.executescript(_SCHEMA)
    numbered_words = list(enumerate(words(), 1))
    insert(source, "learning_content", [_content(rng, i, word) for i, word in numbered_words])
    fragments = [row for i, word in numbered_words for row in _fragments(rng, i, word)]
    insert(source, "content_fragments", numbered(fragments))
    assets = numbered(row for i, row in enumerate(fragments, 1) for row in _assets(rng, i, row))
    insert(source, "fragment_assets", assets)
    owners = [(i, None) for i in range(1, len(fragments) + 1)] + [(f, a) for a, f, *_ in assets]
    insert(source, "rankings", numbered(row for owner in owners for row in _rankings(rng, owner)))
    source.executescript(_FLAWS)
    contents = [i for (i,) in source.execute("SELECT id FROM learning_content ORDER BY id")]
    insert(source, "anki_cards", [_card(rng, i, c) for i, c in enumerate(contents, 1)])
    embeddings = numbered(_embeddings(rng))
    insert(source, "vector_embeddings", embeddings)
    insert(source, "vector_search", list(_searchable(embeddings)))


def _content(rng: random.Random, number: int, word: Word) -> Row:
    title = f"{word.native} ({word.translation})"
    tags = _json(rng, [word.topic, f"level-{word.difficulty}"])
    metadata = _json(rng, {"original_card_id": 4000 + number, "part_of_speech": word.kind})
    created, updated = _stamps(rng)
    reviewed = _stamps(rng)[1] if rng.random() < 0.4 else None
    texts = (word.native, word.translation, f"[{word.ipa}]", word.difficulty)
    return number, title, "vocabulary", "thai", *texts, tags, metadata, created, updated, reviewed


def _fragments(rng: random.Random, content: int, word: Word) -> Iterator[Row]:
    """Yield a word's fragments without ids: its item, two examples, one to three others."""
    sentences = [
        (thai.format(word.native), english.format(word.translation), ipa.format(word.ipa))
        for thai, ipa, english in SENTENCES[word.kind]
    ]
    tones = ", ".join(_TONES[mark][0] for mark in _tone_marks(word.ipa))
    meaning = f"{word.native} is the {word.kind} “{word.translation}”."
    tip = TIPS[word.kind].format(word.native)
    # Both normal forms of Unicode occur, as in typed and in copied text.
    decomposed = unicodedata.normalize("NFD", word.ipa)
    others = [
        ("basic_meaning", word.native, meaning, None),
        ("pronunciation_and_tone", word.native, f"Tone of each syllable: {tones}.", decomposed),
        ("usage_example", *sentences[2]),
        ("usage_tip", word.native, tip, None),
    ]
    chosen = [
        ("target_learning_item", word.native, word.translation, word.ipa),
        ("real_life_example", *sentences[0]),
        ("real_life_example", *sentences[1]),
        *rng.sample(others, rng.randint(1, 3)),
    ]
    for kind, native, body, ipa in chosen:
        extra = f"Topic: {word.topic}" if rng.random() < 0.5 else None
        metadata = _json(rng, {"job_id": rng.randbytes(16).hex(), "keyword": word.native})
        sound = f"[{ipa}]" if ipa else None
        yield native, body, sound, extra, kind, metadata, *_stamps(rng), content


def _assets(rng: random.Random, fragment: int, row: Row) -> Iterator[Row]:
    """Yield the audio of a fragment without ids: about half of the fragments have some."""
    _, _, ipa, _, kind, *_ = row
    likely = {"target_learning_item": 1.0, "real_life_example": 0.75}.get(str(kind), 0.0)
    if rng.random() >= likely:
        return
    voices = [("low voice", 130.0), ("high voice", 220.0)]
    for name, hertz in rng.sample(voices, rng.choice([1, 1, 2])):
        sound = _melody(_tone_marks(str(ipa)), hertz=hertz * rng.uniform(0.95, 1.05))
        metadata = _json(rng, {"format": "wav", "sample_rate": _RATE, "voice": name})
        yield fragment, "audio", sound, metadata, _stamps(rng)[0], rng.choice(["system", None])


def _rankings(rng: random.Random, owner: tuple[object, object]) -> Iterator[Row]:
    """Yield up to two rankings, without ids, of a fragment or of one of its assets."""
    fragment, asset = owner
    # The application omits the fragment in some rankings of assets.
    rated = None if asset and rng.random() < 0.3 else fragment
    for judge in rng.sample(["somchai", "malee", "nok"], rng.choice([0, 1, 1, 2])):
        note = rng.choice(["clear", "ชัดเจนดี", None, None])
        yield rated, asset, round(rng.uniform(0, 5), 2), judge, note, *_stamps(rng)


def _card(rng: random.Random, number: int, content: int) -> Row:
    """Return a card that was never exported."""
    tags = json.dumps(["sync::new", rng.choice(["hard", "easy"])])
    return number, None, "top-thai-2000", tags, *_stamps(rng), content, None


def _embeddings(rng: random.Random) -> Iterator[Row]:
    for card in range(1, 6):
        for side in ("front", "back", "combined"):
            vector = json.dumps([round(rng.gauss(0, 0.05), 6) for _ in range(384)])
            yield card, side, vector, 384, _stamps(rng)[0]


def _searchable(embeddings: Iterable[Row]) -> Iterator[Row]:
    for number, card, side, vector, *_ in embeddings:
        yield number, card, side, np.array(json.loads(str(vector)), np.float32).tobytes()


def _json(rng: random.Random, value: object) -> str | None:
    """Return the JSON of `value`, or sometimes SQL NULL or JSON null."""
    return rng.choices([json.dumps(value), None, "null"], weights=[80, 12, 8])[0]


def _stamps(rng: random.Random) -> tuple[str, str]:
    """Return a creation and a later update, in one of the formats that occur."""
    created = _NEW_YEAR + timedelta(microseconds=rng.randrange(200 * 86_400 * 10**6))
    updated = created + timedelta(microseconds=rng.randrange(30 * 86_400 * 10**6))
    shape = rng.choice(["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", None])
    if shape is None:
        return created.astimezone(_BANGKOK).isoformat(), updated.astimezone(_BANGKOK).isoformat()
    return created.strftime(shape), updated.strftime(shape)


def _tone_marks(ipa: str) -> list[str]:
    syllables = re.split(r"[.\s]+", unicodedata.normalize("NFD", ipa))
    return [next((mark for mark in _TONES if mark and mark in s), "") for s in syllables]


def _melody(marks: Sequence[str], *, hertz: float) -> bytes:
    """Return a WAV of 0.8 to 1.8 seconds, 16-bit mono, whose pitch moves as the tones do."""
    length = int(_RATE * min(1.8, 0.7 + 0.15 * len(marks)) / len(marks))
    moments = np.linspace(0, 2, length)
    semitones = np.concatenate([np.interp(moments, [0, 1, 2], _TONES[mark][1]) for mark in marks])
    phase = 2 * np.pi * np.cumsum(hertz * 2 ** (semitones / 12)) / _RATE
    swell = np.tile(np.sin(np.pi * moments / 2), len(marks))
    samples = 20_000 * swell * (np.sin(phase) + 0.3 * np.sin(2 * phase))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_RATE)
        sound.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()
