"""Cards as the sync needs them: which content is which note, and what was last exported of it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.anki.notes import SKIP, SUCCESS
from pipeline.tables.anki import anki_cards

_STATES = ("sync::new", "sync::skipped", "sync::failed", "sync::error", SUCCESS)
"""Tags that say how the last export went; of these a card has one."""


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
    raw = sa.type_coerce(anki_cards.c.tags, sa.Text)
    c = anki_cards.c
    rows = session.execute(
        sa.select(
            c.id, c.learning_content_id, c.anki_note_id, c.deck_name, raw, c.export_hash
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
    c, now = anki_cards.c, datetime.now(timezone.utc)  # noqa: UP017
    for each in exported:
        values = {
            "anki_note_id": each.note_id,
            "export_hash": each.export_hash,
            "updated_at": now,
        }
        if each.card_id is None:
            new = {
                **values,
                "deck_name": each.deck,
                "tags": [SUCCESS],
                "created_at": now,
                "learning_content_id": each.content_id,
            }
            literals = [sa.literal(value, c[name].type) for name, value in new.items()]
            taken = sa.exists().where(c.learning_content_id == each.content_id)
            session.execute(
                sa.insert(anki_cards).from_select(list(new), sa.select(*literals).where(~taken))
            )
            continue
        # The first write locks the file, so that nobody changes the tags between look and write.
        session.execute(sa.update(anki_cards).where(c.id == each.card_id).values(values))
        raw = sa.type_coerce(c.tags, sa.Text)
        listed = _listed(session.scalar(sa.select(raw).where(c.id == each.card_id))) or []
        kept = [tag for tag in listed if str(tag).lower() not in _STATES]
        session.execute(
            sa.update(anki_cards).where(c.id == each.card_id).values(tags=[SUCCESS, *kept])
        )


def _listed(text: str | None) -> list[Any] | None:
    """The list that a card's JSON is, None if it is something else; NULL is an empty one."""
    try:
        met = json.loads(text or "null")
    except ValueError:
        return None
    return [] if met is None else met if isinstance(met, list) else None


def _tags(text: str | None) -> tuple[str, ...]:
    """The tags of a card; where they cannot be read, the card is left alone like one to skip."""
    listed = _listed(text)
    return (SKIP,) if listed is None else tuple(tag for tag in listed if isinstance(tag, str))
