"""What is about to be written to Anki, kept in the ledger until the card says that it was.

Who breaks off between Anki and the card leaves a text in Anki that no card knows; by this it is
told from a learner's edit. Of a content there may be several, of as many runs that broke off.
"""

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from pipeline.declared import ledger
from pipeline.declared.ledger import anki_intents as _intents


def read(session: Session) -> dict[int, list[str]]:
    """Export hashes that were about to be written, by content."""
    if not session.scalar(sa.select(sa.func.to_regclass(_intents.fullname).is_not(None))):
        return {}
    found: dict[int, list[str]] = {}
    for content_id, text in session.execute(
        sa.select(_intents.c.content_id, _intents.c.export_hash)
    ):
        found.setdefault(content_id, []).append(text)
    return found


def prepare(session: Session) -> None:
    """Make the table where it is missing."""
    session.execute(sa.schema.CreateSchema(ledger.SCHEMA, if_not_exists=True))
    ledger.metadata.create_all(session.connection(), tables=[_intents])


def keep(session: Session, exports: Mapping[int, str]) -> None:
    """Note what is about to be written: content -> export hash."""
    numbers = sa.func.unnest(sa.literal(list(exports), sa.ARRAY(sa.Integer)))
    texts = sa.func.unnest(sa.literal(list(exports.values()), sa.ARRAY(sa.Text)))
    new = insert(_intents).from_select(["content_id", "export_hash"], sa.select(numbers, texts))
    session.execute(new.on_conflict_do_nothing())


def forget(session: Session, content_ids: Collection[int]) -> None:
    """The cards know now."""
    session.execute(sa.delete(_intents).where(_intents.c.content_id.in_(content_ids)))
