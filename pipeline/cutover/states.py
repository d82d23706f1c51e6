"""Who may write: the states of a migration, as the ledger remembers them.

shadow: the application writes the source, moves make the target follow.
frozen: nobody writes the source's tables; the target is proven equal to them.
live: the application writes the target, and what it writes is captured.
closed: the same, without a way back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.core.errors import TargetError
from pipeline.core.messages import ROLLBACK, message
from pipeline.postgres.target import Target

State = Literal["shadow", "frozen", "live", "closed"]

STEPS: dict[State, tuple[State, ...]] = {
    "shadow": ("frozen",),
    "frozen": ("live", "shadow"),
    "live": ("closed", "shadow"),
    "closed": (),
}
"""From each state, those that follow."""


@dataclass(frozen=True)
class CurrentState:
    """The state, and since when; None if it has never changed."""

    state: State
    since: datetime | None = None
    run_id: str | None = None

    def __str__(self) -> str:
        """The state for people."""
        since = "" if self.since is None else f" since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.state}{since}"


class WrongState(TargetError):
    """What was asked for cannot be done in this state."""


def read(target: Target, migration: str) -> CurrentState:
    """The state of a migration; shadow before anything was moved."""
    if not target.value("SELECT to_regclass('migration.cutover') IS NOT NULL"):
        return CurrentState("shadow")
    found = target.rows(
        "SELECT state, at, run_id FROM migration.cutover WHERE migration = $1"
        " ORDER BY id DESC LIMIT 1",
        (migration,),
    )
    return CurrentState(*found[0]) if found else CurrentState("shadow")


def change(target: Target, migration: str, to: State, *, run_id: str) -> None:
    """Go on to another state, in the transaction that is under way.

    Raises:
        WrongState: that one does not follow from this one.
    """
    now = read(target, migration).state
    if to not in STEPS[now]:
        raise WrongState(
            f"The migration is {now}, from which it cannot become {to}",
            remedy=f"It may become {' or '.join(STEPS[now])}" if STEPS[now] else "It has ended",
        )
    target.rows(
        "INSERT INTO migration.cutover (migration, state, run_id) VALUES ($1, $2, $3) RETURNING 1",
        (migration, to, run_id),
    )


def says_no(target: Target, migration: str) -> str | None:
    """Why the target does not follow the source any more, as a sentence; None where it does."""
    now = read(target, migration)
    if now.state in ("shadow", "frozen"):
        return None
    return f"The application writes to the target: the migration is {now}"


def require_following(target: Target, migration: str) -> None:
    """Refuse a target that does not follow the source any more.

    Raises:
        WrongState: the application writes there.
    """
    no = says_no(target, migration)
    if no:
        back = read(target, migration).state == "live"
        raise WrongState(
            f"{no}, so nothing may be moved over it or held against the source",
            remedy=message(ROLLBACK, " takes its writes back into the source, and moves run again")
            if back
            else "Nothing is left to move",
        )
