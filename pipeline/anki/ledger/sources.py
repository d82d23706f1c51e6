"""Which source's notes an Anki has: a label that the notes carry as a tag, and Anki's profile.

Two sources may number their contents alike. The label tells their notes apart, and the profile
tells two copies of a collection apart. Both are recorded before the first write.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pipeline.declared import ledger
from pipeline.declared.ledger import anki_source as _source


@dataclass(frozen=True)
class Source:
    """The source as Anki knows it.

    Attributes:
        label: in the tag of its notes.
        profile: open during the last sync; None if Anki did not name it.
        missing: the number of missing notes that a person accepted.
    """

    label: str
    profile: str | None = None
    missing: int = 0


def read(session: Session) -> Source | None:
    """The recorded source, None before the first sync of this version."""
    if not session.scalar(sa.select(sa.func.to_regclass(_source.fullname).is_not(None))):
        return None
    c = _source.c
    row = session.execute(sa.select(c.label, c.profile, c.missing)).first()
    return Source(*row) if row else None


def record(session: Session, source: Source) -> None:
    """Record the source in place of what was recorded; creates the table if it is missing."""
    session.execute(sa.schema.CreateSchema(ledger.SCHEMA, if_not_exists=True))
    ledger.metadata.create_all(session.connection(), tables=[_source])
    session.execute(sa.delete(_source))
    session.execute(sa.insert(_source).values(vars(source)))
