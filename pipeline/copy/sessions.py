"""The sessions of a copy: one whose connection is lost is replaced.

The server may not have noticed that the connection is lost; its session then holds locks for hours.
So all sessions that replace each other share a mark, by which the new one ends the old one.
"""

import contextlib
import secrets
import time

from pipeline.core.errors import LockedError
from pipeline.core.place import Place
from pipeline.move.ledger import watermarks
from pipeline.postgres.driver import locks
from pipeline.postgres.target import Target


class Session:
    """A session that can be replaced.

    Attributes:
        target: the session in use.
    """

    def __init__(
        self, target: Target, opened: contextlib.ExitStack, *, place: Place | None
    ) -> None:
        """Use an open session.

        Args:
            opened: closes the sessions that replace it.
            place: what the session has locked for the run.
        """
        self.target = target
        self._opened, self._place = opened, place
        self._mark, self._since = secrets.randbits(62), time.monotonic()
        target.run(f"SELECT pg_advisory_lock_shared({self._mark})")

    def renew(self, run_id: str, labels: frozenset[str]) -> None:
        """Open another session, and end the one before.

        Args:
            labels: the tables of the run.

        Raises:
            Transient: the server does not answer.
            LockedError: another run has used the target meanwhile.
        """
        # Nothing is held until the new session has locked it.
        again = self.target.another(held=set(), mark=self._mark)
        self.target = target = self._opened.enter_context(again)
        locks.end_marked(target.rows, self._mark)
        if self._place is None:
            return
        self._opened.enter_context(target.lock(self._place))
        age = time.monotonic() - self._since
        moved = watermarks.moved_by_others(target, run_id=run_id, seconds=age)
        if changed := sorted(labels.intersection(moved)):
            raise LockedError(
                f"Another run wrote {', '.join(changed)} while the connection was lost",
                remedy="Run again; tables that this run has committed are kept",
            )
