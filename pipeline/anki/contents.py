"""Read the contents of cards from PostgreSQL, as a stream of one query.

A card shows the best ``target_learning_item`` of a content and the three best ``real_life_example``
fragments, each with its best recording. Fragments and recordings are ordered by average rating,
then by date, newest first; unrated ones come last. A rating without an asset rates the fragment.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from markupsafe import Markup
from sqlalchemy.orm import Session

from pipeline.anki.store.batches import by_bytes
from pipeline.declared.ledger import quarantine
from pipeline.migrations.content import learning_content

ITEM = "target_learning_item"
EXAMPLE = "real_life_example"
EXAMPLES = 3
_BATCH = 500
_LARGEST_ID = 2**31 - 1
_FILE = re.compile(r"asset_([1-9][0-9]{0,9})\.mp3")


@dataclass(frozen=True)
class Sound:
    """A recording, which Anki stores under its id.

    Attributes:
        md5: of its bytes, in hexadecimal.
        size: the number of bytes.
    """

    asset_id: int
    md5: str
    size: int

    @property
    def file(self) -> str:
        """Its name in Anki's media folder; the suffix does not depend on the audio format."""
        return f"asset_{self.asset_id}.mp3"

    def __html__(self) -> str:
        """The command that makes Anki play it."""
        return Markup("[sound:{}]").format(self.file)


@dataclass(frozen=True)
class Fragment:
    """A fragment as a card shows it."""

    id: int
    native_text: str
    body_text: str
    ipa: str | None
    extra: str | None
    sound: Sound | None


@dataclass(frozen=True)
class Content:
    """A content as a card shows it."""

    id: int
    title: str
    content_type: str
    language: str
    native_text: str
    translation: str
    ipa: str
    difficulty_level: int | None
    tags: list[str] | None
    item: Fragment | None
    examples: tuple[Fragment, ...]


_QUERY = """
WITH rated AS (
  SELECT f.id, f.learning_content_id, f.fragment_type, f.native_text, f.body_text, f.ipa, f.extra,
    row_number() OVER (PARTITION BY f.learning_content_id, f.fragment_type
      ORDER BY r.score DESC NULLS LAST, f.created_at DESC NULLS LAST, f.id DESC) AS place
  FROM content_fragments AS f
  LEFT JOIN (SELECT fragment_id, avg(rank_score) AS score FROM rankings
    WHERE asset_id IS NULL GROUP BY fragment_id) AS r ON r.fragment_id = f.id
  WHERE f.fragment_type IN (:item, :example)
    AND (:every OR f.learning_content_id = ANY(:ids))
), chosen AS (
  SELECT * FROM rated WHERE place <= CASE fragment_type WHEN :item THEN 1 ELSE :examples END
), heard AS (
  SELECT DISTINCT ON (a.fragment_id) a.fragment_id, a.id
  FROM fragment_assets AS a JOIN chosen AS f ON f.id = a.fragment_id
  LEFT JOIN (SELECT asset_id, avg(rank_score) AS score FROM rankings GROUP BY asset_id) AS r
    ON r.asset_id = a.id
  WHERE a.asset_type = 'audio' AND octet_length(a.asset_data) > 0
  ORDER BY a.fragment_id, r.score DESC NULLS LAST, a.created_at DESC NULLS LAST, a.id DESC
), shown AS (
  SELECT f.learning_content_id, json_agg(json_build_object('type', f.fragment_type, 'id', f.id,
    'native_text', f.native_text, 'body_text', f.body_text, 'ipa', f.ipa, 'extra', f.extra,
    'asset_id', a.id, 'md5', md5(a.asset_data),
    'size', octet_length(a.asset_data)) ORDER BY f.place) AS fragments
  FROM chosen AS f LEFT JOIN heard AS h ON h.fragment_id = f.id
  LEFT JOIN fragment_assets AS a ON a.id = h.id
  GROUP BY f.learning_content_id
)
SELECT c.id, c.title, c.content_type, c.language, c.native_text, c.translation, c.ipa,
  c.difficulty_level, c.tags, coalesce(s.fragments, '[]') AS shown
FROM learning_content AS c LEFT JOIN shown AS s ON s.learning_content_id = c.id
WHERE :every OR c.id = ANY(:ids) ORDER BY c.id
"""


def read(session: Session, ids: Collection[int] | None = None) -> Iterator[Content]:
    """Contents in the order of their ids, one batch in memory at a time; ``ids`` None reads all."""
    rows = session.execute(
        sa.text(_QUERY),
        {
            "item": ITEM,
            "example": EXAMPLE,
            "examples": EXAMPLES,
            "every": ids is None,
            "ids": list(ids or ()),
        },
        execution_options={"stream_results": True},
    ).yield_per(_BATCH)
    for row in rows.mappings():
        values: dict[str, Any] = dict(row)
        shown = [(fragment.pop("type"), _fragment(fragment)) for fragment in values.pop("shown")]
        item = next((fragment for kind, fragment in shown if kind == ITEM), None)
        examples = tuple(fragment for kind, fragment in shown if kind == EXAMPLE)
        yield Content(**values, item=item, examples=examples)


def _fragment(values: dict[str, Any]) -> Fragment:
    asset_id, md5, size = (values.pop(name) for name in ("asset_id", "md5", "size"))
    return Fragment(**values, sound=None if asset_id is None else Sound(asset_id, md5, size))


def recordings(session: Session, sounds: Collection[Sound]) -> Iterator[tuple[Sound, bytes]]:
    """The bytes of existing recordings, one batch in memory at a time."""
    query = sa.text("SELECT id, asset_data FROM fragment_assets WHERE id = ANY(:ids) ORDER BY id")
    ordered = sorted(sounds, key=lambda sound: sound.asset_id)
    for some in by_bytes(ordered, lambda sound: sound.size):
        by_id = {sound.asset_id: sound for sound in some}
        for asset_id, data in session.execute(query, {"ids": list(by_id)}):
            yield by_id[asset_id], bytes(data)


def recorded(session: Session, files: Collection[str]) -> dict[str, Sound]:
    """The recordings with these file names; other names are ignored."""
    numbers = (int(match[1]) for name in files if (match := _FILE.fullmatch(name)))
    named = [number for number in numbers if number <= _LARGEST_ID]
    query = sa.text(
        "SELECT id, md5(asset_data), octet_length(asset_data) FROM fragment_assets"
        " WHERE id = ANY(:ids)"
    )
    sounds = (Sound(*row) for row in session.execute(query, {"ids": named}))
    return {sound.file: sound for sound in sounds}


def ids(session: Session) -> set[int]:
    """Ids of all contents."""
    return set(session.scalars(sa.select(learning_content.c.id)))


def lock_existing(session: Session, content_ids: Collection[int]) -> set[int]:
    """Existing contents among these; they cannot be deleted before the transaction ends."""
    query = sa.text("SELECT id FROM learning_content WHERE id = ANY(:ids) FOR KEY SHARE")
    return set(session.scalars(query, {"ids": list(content_ids)}))


def in_quarantine(session: Session) -> set[int]:
    """Ids of quarantined contents."""
    if not session.scalar(sa.select(sa.func.to_regclass(quarantine.fullname).is_not(None))):
        return set()
    of_contents = quarantine.c.table_name == learning_content.name
    keys = session.scalars(sa.select(quarantine.c.source_key).where(of_contents))
    return {int(key) for key in keys if key and key.isdecimal()}
