"""Findings of a copy that the checks of a move do not have."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.findings import Finding


@dataclass(frozen=True)
class RowsDiffer(Finding):
    """Rows that only one side has, although the numbers of all rows may be equal.

    Attributes:
        detail: which rows, and how many on each side.
    """

    title: ClassVar[str] = "rows differ"
    table: str
    detail: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table}: {self.detail}"
