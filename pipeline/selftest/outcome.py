"""What the checks said of one planted difference."""

from dataclasses import dataclass
from itertools import zip_longest

from pipeline.core.findings import CheckResult, Finding


@dataclass(frozen=True)
class Outcome:
    """What the checks said of one planted difference.

    Attributes:
        name: the difference.
        expected: names of the checks that have to fail; none for a harmless one.
        caught: names of the checks that failed.
        finding: one of their findings.
    """

    name: str
    expected: frozenset[str]
    caught: frozenset[str]
    finding: Finding | None

    @property
    def right(self) -> bool:
        """Whether exactly those checks failed that had to."""
        return self.caught == self.expected


def outcome(
    name: str, expected: frozenset[str], sound: list[CheckResult], found: list[CheckResult]
) -> Outcome:
    """What changed for the worse; where nothing was sound before, all that was found."""
    worse = [
        now
        for before, now in zip_longest(sound, found)
        if before is None or (now.findings, now.passed) != (before.findings, before.passed)
    ]
    findings = [finding for check in worse for finding in check.findings]
    return Outcome(
        name, expected, frozenset(check.name for check in worse), next(iter(findings), None)
    )
