"""The states of a migration, stored in the ledger: which database the application may write to.

shadow: the application writes to the source; moves keep the target in sync.
frozen: nobody can write to the source's tables; the target is proven equal to them.
live: the application writes to the target; its changes are captured.
closed: the application writes to the target; a rollback is no longer possible.
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
"""Allowed changes of state."""


@dataclass(frozen=True)
class CurrentState:
    """A state, and the time and run of its last change; None if it never changed."""

    state: State
    since: datetime | None = None
    run_id: str | None = None

    def __str__(self) -> str:
        """The state, for messages."""
        since = "" if self.since is None else f" since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.state}{since}"


class WrongState(TargetError):
    """The operation is not allowed in this state."""


def read(target: Target, migration: str) -> CurrentState:
    """The state of a migration; shadow before its first move."""
    if not target.value("SELECT to_regclass('migration.cutover') IS NOT NULL"):
        return CurrentState("shadow")
    found = target.rows(
        "SELECT state, at, run_id FROM migration.cutover WHERE migration = $1"
        " ORDER BY id DESC LIMIT 1",
        (migration,),
    )
    return CurrentState(*found[0]) if found else CurrentState("shadow")


def change(target: Target, migration: str, to: State, *, run_id: str) -> None:
    """Change the state within the current transaction.

    Raises:
        WrongState: the change is not allowed.
    """
    now = read(target, migration).state
    if to not in STEPS[now]:
        raise WrongState(
            f"The migration is {now} and cannot become {to}",
            remedy=f"It can become {' or '.join(STEPS[now])}"
            if STEPS[now]
            else "The migration has ended",
        )
    target.rows(
        "INSERT INTO migration.cutover (migration, state, run_id) VALUES ($1, $2, $3) RETURNING 1",
        (migration, to, run_id),
    )


def why_not_following(target: Target, migration: str) -> str | None:
    """A sentence why the target no longer follows the source; None if it does."""
    now = read(target, migration)
    if now.state in ("shadow", "frozen"):
        return None
    return f"The application writes to the target: the migration is {now}"


def require_following(target: Target, migration: str) -> None:
    """Refuse a target that no longer follows the source.

    Raises:
        WrongState: the application writes to the target.
    """
    reason = why_not_following(target, migration)
    if reason:
        live = read(target, migration).state == "live"
        raise WrongState(
            f"{reason}, so the target can neither be overwritten nor compared with the source",
            remedy=message(
                ROLLBACK, " copies the target's changes to the source and enables moves again"
            )
            if live
            else "Nothing is left to move",
        )
