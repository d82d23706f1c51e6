"""The feed: changes of published tables, in the target's schema ``feed``.

It outlives the migration, because the application's events depend on it. Triggers write a row of
``changes`` for each changed row of a published table, in the same transaction. Moves write none.
``id`` orders the changes of one row. ``xid`` is the transaction; it tells a reader which changes
are unread, in whatever order transactions commit. ``horizon`` has one row: ``epoch`` differs in
every recreated feed, and readers that have not read all transactions before ``pruned`` have missed
changes for good.

``fleeting`` holds events without a table of their own for half a minute, so reading them requires
privileges too; a server crash empties it. ``payload`` of ``changes`` holds events of earlier
versions that were too large for NOTIFY.

``former`` holds what a row referred to before a transaction deleted it or changed its key, so that
rows deleted with it still find their topic. Only that transaction reads it.

Every role that can connect can listen to ``CHANNEL`` and notify it; PostgreSQL has no privilege
against that. So a notification only says that one of the two tables has new rows.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

SCHEMA = "feed"

CHANNEL = "feed"
"""The channel of NOTIFY."""

CHANGED_HINT, FLEETING_HINT = "", "fleeting"
"""Payloads of NOTIFY for new rows of ``changes`` or ``fleeting``. Anybody can forge such a hint, so
it makes readers query the feed, and its content is not trusted."""

FRESH = "30 seconds"
"""Older fleeting events are not read."""

CANARY_TOPICS = ("space:-1", "user:-1")
"""Subscribers to all topics do not get these: their events are tests and come from no user."""

metadata = sa.MetaData(schema=SCHEMA)


class TransactionId(sa.types.UserDefinedType[str]):
    """PostgreSQL's ``xid8``: a transaction number that never wraps around."""

    def get_col_spec(self, **_: Any) -> str:
        """The type in DDL."""
        return "xid8"


def _transaction() -> tuple[sa.Column[Any], ...]:
    """The order of a row, and the transaction that wrote it."""
    return (
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column(
            "xid", TransactionId(), nullable=False, server_default=sa.text("pg_current_xact_id()")
        ),
    )


def _position() -> tuple[sa.Column[Any], ...]:
    """The first columns of changes and fleeting events: position, time and topic."""
    return (
        *_transaction(),
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
    # Presence is repeated often; WAL for it would cost more than it is worth.
    prefixes=["UNLOGGED"],
)
sa.Index("fleeting_xid_idx", fleeting.c.xid)

former = sa.Table(
    "former",
    metadata,
    *_transaction(),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    # No transaction survives a crash, so its rows need not either.
    prefixes=["UNLOGGED"],
)
sa.Index("former_xid_idx", former.c.xid, former.c.table_name, former.c.key)

horizon = sa.Table(
    "horizon",
    metadata,
    sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("epoch", UUID, nullable=False, server_default=sa.text("gen_random_uuid()")),
    sa.Column("pruned", TransactionId()),
    sa.CheckConstraint("one", name="horizon_one_check"),
)
