"""The feed: what changed in published tables, in a schema ``feed`` of its own in the target.

It outlives the migration: the application's events hang on it. Triggers write a row of ``changes``
for each row of a published table that somebody changes, in the transaction that changes it. Moves
make none. ``id`` orders the changes of one row as they were made; ``xid`` is the transaction, by
which a reader tells what it has not seen yet, whatever order transactions commit in. ``horizon``
has one row: ``epoch`` is another one in every feed that was made anew, and readers that know less
than the transactions before ``pruned`` have missed something for good.

``fleeting`` holds the events that no table keeps, for half a minute, so that they are read under
rights like everything else; a crash of the server empties it. ``payload`` of ``changes`` is where
earlier versions put those that were too large for NOTIFY.

Every role that can connect may listen to ``CHANNEL`` and notify it; PostgreSQL has no right against
that. So a notification says that there is something new in one of the two tables, and nothing else.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

SCHEMA = "feed"

CHANNEL = "feed"
"""The channel of NOTIFY."""

CHANGED_HINT, FLEETING_HINT = "", "fleeting"
"""What is notified when ``changes`` or ``fleeting`` has new rows. Anybody can forge such a hint, so
it makes readers look, and nothing of it is believed."""

FRESH = "30 seconds"
"""Fleeting events that are older are not read any more."""

CANARY_TOPICS = ("space:-1", "user:-1")
"""Who listens to everything does not mean these: what is told there was never said by anybody."""

metadata = sa.MetaData(schema=SCHEMA)


class TransactionId(sa.types.UserDefinedType[str]):
    """PostgreSQL's ``xid8``: the number of a transaction, which never begins anew."""

    def get_col_spec(self, **_: Any) -> str:
        """Its name in DDL."""
        return "xid8"


def _position() -> tuple[sa.Column[Any], ...]:
    """What every row of the feed begins with: where it stands, and to whom it is addressed."""
    return (
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column(
            "xid", TransactionId(), nullable=False, server_default=sa.text("pg_current_xact_id()")
        ),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.Column("topic", sa.Text, nullable=False),
    )


changes = sa.Table(
    "changes",
    metadata,
    *_position(),
    sa.Column("event", sa.Text),
    sa.Column("table_name", sa.Text),
    sa.Column("operation", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("payload", JSONB),
)
sa.Index("changes_xid_idx", changes.c.xid)

fleeting = sa.Table(
    "fleeting",
    metadata,
    *_position(),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("payload", JSONB),
    # Presence is said again and again; logging it would cost more than it is worth.
    prefixes=["UNLOGGED"],
)
sa.Index("fleeting_xid_idx", fleeting.c.xid)

horizon = sa.Table(
    "horizon",
    metadata,
    sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("epoch", UUID, nullable=False, server_default=sa.text("gen_random_uuid()")),
    sa.Column("pruned", TransactionId()),
    sa.CheckConstraint("one", name="horizon_one_check"),
)
