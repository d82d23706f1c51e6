"""A session with the target for backups and restores, with errors that name the cause."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from pipeline.backup.errors import RestoreRefused
from pipeline.core.errors import TargetError
from pipeline.postgres.driver import refusals
from pipeline.postgres.session import connect

_DEPENDED_ON = ("2BP01", "0A000")
"""SQLSTATEs of tables that cannot be dropped or emptied because other objects depend on them."""

_DISABLE_TRIGGER = "Nothing was changed; disable that trigger, then run again"


@contextmanager
def session(url: str, *, shown: str, reading: bool = False) -> Iterator[Any]:
    """A cursor in one transaction, which is committed at the end.

    Args:
        url: a libpq URL, ``postgresql://...``.
        shown: the database's name in messages; contains no password.
        reading: read-only, with one snapshot for all statements.

    Raises:
        TargetError: no server answers, or it refuses.
        RestoreRefused: an object outside the backup depends on a table to be replaced.
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
                    f"{shown}: an object that is not in the backup depends on the backup's tables"
                    f" ({detail.rstrip('.')})",
                    remedy="Nothing was changed; drop the object, restore, and create it again",
                ) from None
            trigger = _refusing_trigger(connection, error)
            if trigger:
                raise TargetError(
                    f"{shown}: {trigger} raised an error: {error.diag.message_primary}",
                    remedy=_DISABLE_TRIGGER,
                ) from None
            # Not "from error": the server's further lines quote the refused row.
            raise TargetError.from_driver(error, where=shown, url=url) from None


def _refusing_trigger(connection: Any, error: psycopg2.Error) -> str:
    """The trigger of the target that raised the error, empty if none did.

    The transaction must have been rolled back.
    """
    context = refusals.Context.of(error.diag.context or "")
    if connection.closed or not context.explains(error.pgcode or ""):
        return ""

    def ask(query: str) -> Any:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    return refusals.refusing_object(ask, context)
