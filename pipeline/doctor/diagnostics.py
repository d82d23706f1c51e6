"""What an examination finds, as values."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.messages import Text

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Diagnostic:
    """One thing that was looked at.

    Attributes:
        place: what was examined.
        name: what was looked at.
        state: an error stops a move, a warning may bite later.
        detail: what was found.
        remedy: what to do about it; empty where all is well.
    """

    place: Literal["source", "target"]
    name: str
    state: State
    detail: str
    remedy: Text = ""
