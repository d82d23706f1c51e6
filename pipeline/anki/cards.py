"""Cards as the sync needs them: which content is which note, and what was last exported of it."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.anki.store.notes import REMOVED, SKIP, SUCCESS, has_tag
from pipeline.application.anki_tables import anki_cards

_STATES = ("sync::new", "sync::skipped", "sync::failed", "sync::error", SUCCESS)
"""Tags that say how the last export went; of these a card has one."""

_RAW = sa.cast(anki_cards.c.tags, sa.LargeBinary)
"""Tags as bytes, because they may be neither JSON nor UTF-8."""


@dataclass(frozen=True)
class Card:
    """A card; several of one content are an error that the checks name."""

    id: int
    content_id: int | None
    note_id: int | None
    deck: str
    tags: tuple[str, ...]
    export_hash: str | None


@dataclass(frozen=True)
class Exported:
    """What Anki has confirmed of a content.

    Attributes:
        card_id: None where the content had no card.
        export_hash: digests of what was exported.
    """

    card_id: int | None
    content_id: int
    note_id: int
    deck: str
    export_hash: str


def read(session: Session) -> list[Card]:
    """All cards by id."""
    c = anki_cards.c
    rows = session.execute(
        sa.select(
            c.id, c.learning_content_id, c.anki_note_id, c.deck_name, _RAW, c.export_hash
        ).order_by(c.id)
    )
    return [
        Card(number, content, note, deck, _tags(tags), digest)
        for number, content, note, deck, tags, digest in rows
    ]


def by_content(cards: Iterable[Card]) -> dict[int, Card]:
    """The card that stands for each content: one with a note before one without."""
    found: dict[int, Card] = {}
    for card in cards:
        if card.content_id is None:
            continue
        other = found.get(card.content_id)
        if other is None or (other.note_id is None and card.note_id is not None):
            found[card.content_id] = card
    return found


def save(session: Session, exported: Sequence[Exported]) -> None:
    """Keep what Anki has confirmed; a card that is gone meanwhile is not made again."""
    moment = datetime.now(timezone.utc)  # noqa: UP017
    rows = [
        {
            "card": each.card_id,
            "content": each.content_id,
            "note": each.note_id,
            "deck": each.deck,
            "hash": each.export_hash,
            "moment": moment,
        }
        for each in exported
    ]
    if new := [row for row in rows if row["card"] is None]:
        session.execute(_INSERT, new)
    if known := [row for row in rows if row["card"] is not None]:
        # The first write locks the file, so that nobody changes tags between look and write.
        session.execute(_UPDATE, known)
        session.execute(_RETAG, [_retagged(session, row["card"]) for row in known])


def mark(session: Session, cards: Iterable[Card], notes: Collection[int]) -> None:
    """Let cards bear the mark of notes whose content is gone, and no others.

    Args:
        session: with SQLite.
        cards: as they were read.
        notes: those that are marked.
    """
    for card in cards:
        wanted = card.note_id in notes
        if has_tag(card.tags, SKIP) or has_tag(card.tags, REMOVED) == wanted:
            continue
        kept = [tag for tag in card.tags if tag.lower() != REMOVED]
        tags = [*kept, REMOVED] if wanted else kept
        session.execute(_RETAG, [{"card": card.id, "tags": tags}])


def _retagged(session: Session, card: object) -> dict[str, object]:
    """The card's tags with the one that says that it was exported, as JSON."""
    listed = _listed(session.scalar(sa.select(_RAW).where(anki_cards.c.id == card))) or []
    kept = [tag for tag in listed if str(tag).lower() not in _STATES]
    return {"card": card, "tags": [SUCCESS, *kept]}


def _bound(name: str, column: sa.Column[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=column.type)


_C = anki_cards.c
_MARKS = {
    _C.anki_note_id: _bound("note", _C.anki_note_id),
    _C.export_hash: _bound("hash", _C.export_hash),
    _C.updated_at: _bound("moment", _C.updated_at),
}
_UPDATE = sa.update(anki_cards).where(_C.id == sa.bindparam("card")).values(_MARKS)
_RETAG = (
    sa.update(anki_cards)
    .where(_C.id == sa.bindparam("card"))
    .values({_C.tags: _bound("tags", _C.tags)})
)
_NEW = _MARKS | {
    _C.deck_name: _bound("deck", _C.deck_name),
    _C.tags: sa.literal([SUCCESS], _C.tags.type),
    _C.created_at: _bound("moment", _C.created_at),
    _C.learning_content_id: _bound("content", _C.learning_content_id),
}
_INSERT = sa.insert(anki_cards).from_select(
    [column.name for column in _NEW],
    sa.select(*_NEW.values()).where(
        ~sa.exists().where(_C.learning_content_id == sa.bindparam("content"))
    ),
)
"""Somebody else may have made the card meanwhile."""


def _listed(text: bytes | None) -> list[Any] | None:
    """The list that a card's JSON is, None if it is something else; NULL is an empty one."""
    try:
        met = json.loads((text or b"null").decode())
    except (ValueError, RecursionError):
        return None
    return [] if met is None else met if isinstance(met, list) else None


def _tags(text: bytes | None) -> tuple[str, ...]:
    """The tags of a card; where they cannot be read, the card is left alone like one to skip."""
    listed = _listed(text)
    return (SKIP,) if listed is None else tuple(tag for tag in listed if isinstance(tag, str))
