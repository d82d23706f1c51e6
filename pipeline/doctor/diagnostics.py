"""Results of the checks of the databases, as values."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.messages import Text
from pipeline.postgres.connections import Limit

State = Literal["ok", "warning", "error"]
Place = Literal["source", "target", "dagster"]


@dataclass(frozen=True)
class Diagnostic:
    """The result of one check.

    Attributes:
        state: an error prevents a move; a warning points out a risk.
        remedy: empty if the state is ok.
    """

    place: Place
    name: str
    state: State
    detail: str
    remedy: Text = ""


def of_limit(place: Place, limit: Limit) -> Diagnostic:
    """Whether a server lets a run open enough connections."""
    if limit.enough:
        return Diagnostic(place, "connections", "ok", limit.detail)
    return Diagnostic(place, "connections", "error", limit.detail, limit.remedy)
