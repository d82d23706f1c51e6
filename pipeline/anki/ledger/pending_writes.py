"""Exports in the ledger that a note may hold although its card records another one.

An export is recorded before it is written, together with the one before. A run that stops between
writing Anki and saving the card leaves text in Anki that no card knows; an editor that was open
during the write puts the text before back. Neither is a learner's edit. A confirmed export is
deleted, and the one before it remains. After several interrupted runs, a content has several.
"""

from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from pipeline.declared import ledger
from pipeline.declared.ledger import anki_intents as _intents


def read(session: Session) -> dict[int, list[str]]:
    """Recorded export hashes by content."""
    if not session.scalar(sa.select(sa.func.to_regclass(_intents.fullname).is_not(None))):
        return {}
    found: dict[int, list[str]] = {}
    for content_id, text in session.execute(
        sa.select(_intents.c.content_id, _intents.c.export_hash)
    ):
        found.setdefault(content_id, []).append(text)
    return found


def prepare(session: Session) -> None:
    """Create the table if it is missing."""
    session.execute(sa.schema.CreateSchema(ledger.SCHEMA, if_not_exists=True))
    ledger.metadata.create_all(session.connection(), tables=[_intents])


def record(session: Session, exports: Iterable[tuple[int, str]]) -> None:
    """Record pairs of content and export hash."""
    some = list(exports)
    numbers = sa.func.unnest(sa.literal([number for number, _ in some], sa.ARRAY(sa.Integer)))
    texts = sa.func.unnest(sa.literal([text for _, text in some], sa.ARRAY(sa.Text)))
    new = insert(_intents).from_select(["content_id", "export_hash"], sa.select(numbers, texts))
    session.execute(new.on_conflict_do_nothing())


def settle(session: Session, exports: Mapping[int, str | None]) -> None:
    """Keep only the export before the confirmed one, None if there was none, of each content."""
    forget(session, exports)
    record(session, [(number, text) for number, text in exports.items() if text])


def forget(session: Session, content_ids: Collection[int]) -> None:
    """Delete what is recorded of contents."""
    session.execute(sa.delete(_intents).where(_intents.c.content_id.in_(list(content_ids))))
