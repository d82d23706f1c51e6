"""Advisory locks of runs: who holds a place, and which sessions belong to a run."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import LockedError, TargetError
from pipeline.core.place import PUBLIC, Place
from pipeline.core.progress import waiting
from pipeline.postgres.driver.statements import Ask

_LOCK = """
locktype = 'advisory' AND classid = {high} AND objid = {low} AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def locked(
    ask: Ask, place: Place, held: set[Place], *, shown: str, seconds: float
) -> Iterator[None]:
    """Lock a place against other runs, unless it is in ``held``, the places of this run.

    Args:
        shown: the name of the database in messages.
        seconds: how long to wait for another run.

    Raises:
        LockedError: another run still holds the lock; the message names it.
    """
    if place in held:
        yield
        return
    deadline = time.monotonic() + seconds

    def taken() -> bool:
        return bool(ask(f"SELECT pg_try_advisory_lock({place.lock_key})")[0][0])

    while not taken():
        found = holder(ask, place) or "another run"
        with waiting(f"waiting for {found}"):
            while not (free := taken()) and time.monotonic() <= deadline:
                time.sleep(0.2)
        if free:
            break
        raise LockedError(
            f"{shown} is in use by {holder(ask, place) or found}",
            remedy="Wait until that run ends, then run again. If it has ended, a connection pooler"
            " has kept its session: end it with SELECT pg_terminate_backend(PROCESS)",
        )
    held.add(place)
    try:
        yield
    finally:
        held.discard(place)
        with contextlib.suppress(TargetError):
            ask(f"SELECT pg_advisory_unlock({place.lock_key})")


def holder(ask: Ask, place: Place = PUBLIC) -> str | None:
    """The run that holds the lock of a place, for messages; None if it is free."""
    found = ask(
        "SELECT pid, coalesce(host(client_addr), 'a local socket'),"
        " coalesce(nullif(application_name, ''), 'without a name'),"
        " to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS')"
        f" FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE {_lock(place.lock_key)}"
    )
    if not found:
        return None
    pid, host, name, since = found[0]
    return (
        f"another run (server process {pid}, from {host}, application {name}, connected since"
        f" {since} UTC)"
    )


def end_marked(ask: Ask, mark: int) -> None:
    """End all other sessions with a mark; they are rolled back."""
    ask(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
        f" WHERE {_lock(mark)} AND pid <> pg_backend_pid()"
    )


def _lock(key: int) -> str:
    return _LOCK.format(high=key >> 32, low=key & 0xFFFFFFFF)
