"""The options of a run, passed on as one object."""

from dataclasses import dataclass

from pipeline.core.policies import DEFAULT, Policies

DELETE_SHARE = 0.25
"""A move may delete this share of a table's rows; a larger share suggests a wrong source."""


QUARANTINE_SHARE = 0.25
"""A move may leave this share of a table's rows in quarantine; a larger share is no success."""


@dataclass(frozen=True)
class MoveOptions:
    """Options for every table of a run.

    Attributes:
        witness_all: the second witness checks every compared row, not a sample.
    """

    run_id: str
    policies: Policies = DEFAULT
    delete_share: float = DELETE_SHARE
    witness_all: bool = False
    quarantine_share: float = QUARANTINE_SHARE
