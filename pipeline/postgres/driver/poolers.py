"""Transaction poolers, recognized by what they do, on any host and port.

A connection request carries a setting of this project. A server session without it belongs to a
pooler, which keeps server sessions of its own and gives one to each client: for as long as the
client is connected, or for one transaction. In the second case locks, settings and temporary tables
end up in sessions of others, so nothing may be written.
"""

from collections.abc import Callable
from contextlib import closing

import psycopg2

from pipeline.core.errors import TargetError
from pipeline.core.progress import waiting
from pipeline.core.server_errors import SESSION_POOLER

DIRECT = "pipeline.direct"
"""The setting that only a connection request sets."""

_PID = "SELECT pg_catalog.pg_backend_pid()"
_QUESTIONS = 25
"""A pooler that gives its sessions to clients in turn needs several to come to the same one."""


def require_own_session(ask: Callable[[str], int], url: str, *, shown: str) -> None:
    """Refuse a session that another client gets between two statements of this one.

    Args:
        ask: executes a query for a number, in a transaction of its own.
        url: the same server.
        shown: the name of the database in messages.

    Raises:
        TargetError: a pooler gives a server session to a client for one transaction only.
    """
    try:
        with waiting("inspecting the connection pooler"), closing(psycopg2.connect(url)) as other:
            other.autocommit = True
            with other.cursor() as cursor:
                mine = ask(_PID)
                for _ in range(_QUESTIONS):
                    cursor.execute(_PID)
                    (theirs,) = cursor.fetchone() or (None,)
                    if theirs == mine or ask(_PID) != mine:
                        raise TargetError.from_driver(
                            _Shared(f"server process {mine} serves several clients"), where=shown
                        )
    except psycopg2.Error as error:
        raise TargetError.from_driver(error, where=shown, url=url) from None


class _Shared(Exception):
    """A server session that is not the connection's own."""

    sqlstate = SESSION_POOLER
