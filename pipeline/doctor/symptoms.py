"""What an examination finds, as values."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.messages import Text

State = Literal["well", "warning", "error"]


@dataclass(frozen=True)
class Symptom:
    """One thing that was looked at.

    Attributes:
        place: what was examined.
        name: what was looked at.
        state: an error stops a move, a warning may bite later.
        says: what was found.
        remedy: what to do about it; empty where all is well.
    """

    place: Literal["source", "target"]
    name: str
    state: State
    says: str
    remedy: Text = ""
