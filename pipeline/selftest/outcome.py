"""Which checks reacted to one planted difference."""

from dataclasses import dataclass
from itertools import zip_longest

from pipeline.core.findings import CheckResult, Finding


@dataclass(frozen=True)
class Outcome:
    """Which checks reacted to one planted difference.

    Attributes:
        name: the difference.
        expected: names of the checks that must fail; none for a harmless difference.
        caught: names of the checks that failed.
        finding: one of their findings.
    """

    name: str
    expected: frozenset[str]
    caught: frozenset[str]
    finding: Finding | None

    @property
    def as_expected(self) -> bool:
        """Whether exactly the expected checks failed."""
        return self.caught == self.expected


def outcome(
    name: str, expected: frozenset[str], baseline: list[CheckResult], found: list[CheckResult]
) -> Outcome:
    """Compare check results with those of the baseline; an empty baseline reports all."""
    changed = [
        now
        for before, now in zip_longest(baseline, found)
        if before is None or (now.findings, now.passed) != (before.findings, before.passed)
    ]
    findings = [finding for check in changed for finding in check.findings]
    return Outcome(
        name, expected, frozenset(check.name for check in changed), next(iter(findings), None)
    )
