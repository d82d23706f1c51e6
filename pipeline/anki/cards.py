"""The cards in SQLite: which note belongs to which content, and what was last exported."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.anki.store.notes import REMOVED, SKIP, SUCCESS, has_tag
from pipeline.application.anki_tables import anki_cards

_STATES = ("sync::new", "sync::skipped", "sync::failed", "sync::error", SUCCESS)
"""Tags for the result of the last export; a card has one of them."""

_RAW = sa.cast(anki_cards.c.tags, sa.LargeBinary)
"""Tags as bytes, because they may be neither JSON nor UTF-8."""


@dataclass(frozen=True)
class Card:
    """A card; the checks report several cards of one content as an error."""

    id: int
    content_id: int | None
    note_id: int | None
    deck: str
    tags: tuple[str, ...]
    export_hash: str | None


@dataclass(frozen=True)
class Exported:
    """An export that Anki has confirmed; ``card_id`` is None if the content had no card."""

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
    """The card of each content; of several cards, one with a note."""
    found: dict[int, Card] = {}
    for card in cards:
        if card.content_id is None:
            continue
        other = found.get(card.content_id)
        if other is None or (other.note_id is None and card.note_id is not None):
            found[card.content_id] = card
    return found


def save(session: Session, exported: Sequence[Exported]) -> None:
    """Save exports that Anki has confirmed; a card deleted meanwhile is not recreated."""
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
        # The first write locks the file, so tags cannot change between reading and writing.
        session.execute(_UPDATE, known)
        session.execute(_RETAG, [_with_success(session, row["card"]) for row in known])


def reset(session: Session, hashes: Mapping[int, str | None]) -> None:
    """Set the export hash of cards back to an earlier one: note id -> export hash."""
    session.execute(_RESET, [{"named": note, "hash": text} for note, text in hashes.items()])


def mark(session: Session, cards: Iterable[Card], notes: Collection[int]) -> None:
    """Tag the cards of marked notes as removed, and untag all others.

    Args:
        session: with SQLite.
        cards: all cards.
        notes: ids of notes that are marked because their content was deleted.
    """
    for card in cards:
        wanted = card.note_id in notes
        if has_tag(card.tags, SKIP) or has_tag(card.tags, REMOVED) == wanted:
            continue
        kept = [tag for tag in card.tags if tag.lower() != REMOVED]
        tags = [*kept, REMOVED] if wanted else kept
        session.execute(_RETAG, [{"card": card.id, "tags": tags}])


def _with_success(session: Session, card: object) -> dict[str, object]:
    """The card's tags with the success tag in place of other result tags."""
    listed = _parse_list(session.scalar(sa.select(_RAW).where(anki_cards.c.id == card))) or []
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
_RESET = (
    sa.update(anki_cards)
    .where(_C.anki_note_id == sa.bindparam("named"))
    .values({_C.export_hash: _MARKS[_C.export_hash]})
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
"""Inserts nothing if another program has created the card meanwhile."""


def _parse_list(text: bytes | None) -> list[Any] | None:
    """A JSON list; NULL is an empty list, anything else is None."""
    try:
        parsed = json.loads((text or b"null").decode())
    except (ValueError, RecursionError):
        return None
    return [] if parsed is None else parsed if isinstance(parsed, list) else None


def _tags(text: bytes | None) -> tuple[str, ...]:
    """The tags of a card; a card with unreadable tags is skipped."""
    listed = _parse_list(text)
    return (SKIP,) if listed is None else tuple(tag for tag in listed if isinstance(tag, str))
