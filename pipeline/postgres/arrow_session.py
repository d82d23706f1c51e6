"""Opening of a session of the Arrow driver, which states what it relies on."""

from typing import Any

from pipeline.core.errors import TargetError
from pipeline.core.progress import waiting
from pipeline.core.server_errors import SESSION_POOLER
from pipeline.postgres import session
from pipeline.postgres.driver import arrow_driver
from pipeline.postgres.driver.faults import translated


def open_session(
    url: str, *, shown: str, application_name: str, mark: int | None
) -> tuple[Any, bool]:
    """Open a session; also return whether a pooler keeps the server's session.

    Args:
        url: the server.
        shown: the name of the database in messages.
        application_name: the name of the session in ``pg_stat_activity``.
        mark: see ``Target.connect``.

    Raises:
        TargetError: no server answers, it cannot be used, or a pooler is in transaction mode.
    """
    try:
        try:
            return _opened(url, shown, application_name, mark, direct=True), False
        except TargetError as error:
            if error.sqlstate != SESSION_POOLER:
                raise
        # Inspects the pooler, before any lock of this project is in a session of its own.
        session.connect(url, shown=shown, application_name=application_name).close()
        return _opened(url, shown, application_name, mark, direct=False), True
    except ValueError as error:
        raise TargetError.from_driver(error, where=shown, url=url) from None


def _opened(url: str, shown: str, application_name: str, mark: int | None, *, direct: bool) -> Any:
    whole = session.address(url, session.MOVES, application_name=application_name)
    marked = "" if mark is None else f"; SELECT pg_advisory_lock_shared({mark})"
    script = session.statement(session.MOVES, direct=direct) + marked
    with waiting(f"connecting to {shown}"), translated(shown, script, url=url):
        return arrow_driver.connect(whole, script)
