"""The sessions of a copy: one whose connection is lost is replaced.

The server may not have noticed that the connection is lost; its session then holds locks for hours.
So all sessions that replace each other share a mark, by which the new one ends the old one.
"""

import contextlib
import hashlib
import secrets
import time

from pipeline.copy.target.layout import PUBLIC
from pipeline.core.errors import LockedError
from pipeline.core.place import PUBLIC as PUBLIC_PLACE
from pipeline.core.place import Place
from pipeline.move.ledger import watermarks
from pipeline.postgres.driver import locks
from pipeline.postgres.target import Target


def place_of(name: str) -> Place:
    """The schema of a target as a place that one run at a time may write."""
    if name == PUBLIC:
        return PUBLIC_PLACE
    digest = hashlib.sha256(name.encode()).digest()
    return Place(name, int.from_bytes(digest[:7], "big"))


class Session:
    """A session that can be replaced.

    Attributes:
        target: the session in use.
        mark: of all sessions that replace each other.
    """

    def __init__(
        self,
        target: Target,
        opened: contextlib.ExitStack,
        *,
        place: Place | None,
        lock_seconds: float,
    ) -> None:
        """Use an open session.

        Args:
            opened: closes the sessions that replace it.
            place: what the session has locked for the run.
            lock_seconds: how long to wait for another run.
        """
        self.target = target
        self._opened, self._place, self._seconds = opened, place, lock_seconds
        self.mark, self._since = secrets.randbits(62), time.monotonic()
        target.run(f"SELECT pg_advisory_lock_shared({self.mark})")

    def renew(self, run_id: str, labels: frozenset[str]) -> None:
        """Open another session, and end the one before.

        Args:
            labels: the tables of the run.

        Raises:
            Transient: the server does not answer.
            LockedError: another run has used the target meanwhile.
        """
        # Nothing is held until the new session has locked it.
        again = self.target.another(held=set(), mark=self.mark)
        self.target = target = self._opened.enter_context(again)
        locks.end_marked(target.rows, self.mark)
        if self._place is None:
            return
        self._opened.enter_context(target.lock(self._place, seconds=self._seconds))
        age = time.monotonic() - self._since
        moved = watermarks.moved_by_others(target, run_id=run_id, seconds=age)
        if changed := sorted(labels.intersection(moved)):
            raise LockedError(
                f"Another run wrote {', '.join(changed)} while the connection was lost",
                remedy="Run again; tables that this run has committed are kept",
            )
