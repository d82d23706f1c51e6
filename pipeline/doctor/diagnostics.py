"""Results of the checks of both databases, as values."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.messages import Text

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Diagnostic:
    """The result of one check.

    Attributes:
        state: an error prevents a move; a warning points out a risk.
        remedy: empty if the state is ok.
    """

    place: Literal["source", "target"]
    name: str
    state: State
    detail: str
    remedy: Text = ""
