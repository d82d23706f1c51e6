"""How one run moves tables: decided once, and handed on whole."""

from dataclasses import dataclass

from pipeline.core.policies import DEFAULT, Policies

DELETE_SHARE = 0.25
"""A move may delete this share of a table's rows; more looks like a wrong source."""


@dataclass(frozen=True)
class MoveOptions:
    """What holds for every table of a run.

    Attributes:
        run_id: the run that moves.
        policies: what a person decided.
        delete_share: the share of a table's rows that may be deleted.
        witness_all: whether the second witness sees every row that is compared, not a sample.
    """

    run_id: str
    policies: Policies = DEFAULT
    delete_share: float = DELETE_SHARE
    witness_all: bool = False
