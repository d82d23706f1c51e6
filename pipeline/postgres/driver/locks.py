"""Advisory locks of runs: who holds a place, and which sessions belong to a run."""

from pipeline.core.place import PUBLIC, Place
from pipeline.postgres.driver.statements import Ask

_LOCK = """
locktype = 'advisory' AND classid = {high} AND objid = {low} AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def holder(ask: Ask, place: Place = PUBLIC) -> str | None:
    """The run that holds the lock of a place, for messages; None if it is free."""
    found = ask(
        "SELECT pid, coalesce(host(client_addr), 'a local socket'),"
        " to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS')"
        f" FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE {_lock(place.lock_key)}"
    )
    if not found:
        return None
    pid, host, since = found[0]
    return f"another run (server process {pid}, from {host}, connected since {since} UTC)"


def end_marked(ask: Ask, mark: int) -> None:
    """End all other sessions with a mark; they are rolled back."""
    ask(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
        f" WHERE {_lock(mark)} AND pid <> pg_backend_pid()"
    )


def _lock(key: int) -> str:
    return _LOCK.format(high=key >> 32, low=key & 0xFFFFFFFF)
