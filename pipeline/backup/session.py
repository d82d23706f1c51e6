"""A session with the target whose every value reads the same in every server."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from pipeline.backup.errors import RestoreRefused
from pipeline.core.errors import TargetError
from pipeline.postgres import refusals
from pipeline.postgres.session import connect

_DEPENDED_ON = ("2BP01", "0A000")
"""SQLSTATEs of what cannot be dropped or emptied because something else needs it."""

_SPOKEN = "Nothing was changed; disable that trigger, then run again"


@contextmanager
def session(url: str, *, shown: str, reading: bool = False) -> Iterator[Any]:
    """A cursor within one transaction, which is committed at the end.

    Args:
        url: a libpq URL, ``postgresql://...``.
        shown: what messages call this database; holds no password.
        reading: nothing can be written, and everything is as it was at the first statement.

    Raises:
        TargetError: no server answers, or it refuses.
        RestoreRefused: something that is no part of the backup depends on what is replaced.
    """
    with closing(
        connect(url, shown=shown, application_name="pipeline backup", autocommit=False)
    ) as connection:
        try:
            if reading:
                connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            if error.pgcode in _DEPENDED_ON and error.diag.message_detail:
                detail = " ".join(error.diag.message_detail.split())
                raise RestoreRefused(
                    f"{shown}: something that the backup does not have depends on its tables"
                    f" ({detail.rstrip('.')})",
                    remedy="Nothing was changed; drop it, restore, and make it again",
                ) from None
            who = _speaker(connection, error)
            if who:
                said = error.diag.message_primary
                raise TargetError(f"{shown}: {who} stopped it: {said}", remedy=_SPOKEN) from None
            # Not "from error": the server's further lines quote the row that it refused.
            raise TargetError.from_driver(error, where=shown, url=url) from None


def _speaker(connection: Any, error: psycopg2.Error) -> str:
    """Which trigger of the target refused something; the transaction has been rolled back."""
    context = refusals.Context.of(error.diag.context or "")
    if connection.closed or not context.explains(error.pgcode or ""):
        return ""

    def ask(query: str) -> Any:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    return refusals.speaker(ask, context)
