"""Intents in the ledger: exports that are about to be written to Anki and are not confirmed yet.

A run that stops between writing Anki and saving the card leaves text in Anki that no card knows.
The intent distinguishes it from a learner's edit. After several such runs, a content has several
intents.
"""

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from pipeline.declared import ledger
from pipeline.declared.ledger import anki_intents as _intents


def read(session: Session) -> dict[int, list[str]]:
    """Intended export hashes by content."""
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


def record(session: Session, exports: Mapping[int, str]) -> None:
    """Record exports that are about to be written: content -> export hash."""
    numbers = sa.func.unnest(sa.literal(list(exports), sa.ARRAY(sa.Integer)))
    texts = sa.func.unnest(sa.literal(list(exports.values()), sa.ARRAY(sa.Text)))
    new = insert(_intents).from_select(["content_id", "export_hash"], sa.select(numbers, texts))
    session.execute(new.on_conflict_do_nothing())


def forget(session: Session, content_ids: Collection[int]) -> None:
    """Delete the intents of contents whose cards are up to date."""
    session.execute(sa.delete(_intents).where(_intents.c.content_id.in_(content_ids)))
