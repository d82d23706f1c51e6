"""Alerts as values, with their two forms: text for people and JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["run_failed", "checks_failed", "unwell", "test"]

_SHOWN = 20
"""Failures of a kind that an alert lists; the run shows all."""
_LETTERS = 600
"""Maximum length of a sentence."""


@dataclass(frozen=True)
class FailedStep:
    """A failed step and its reason."""

    step: str
    sentence: str


@dataclass(frozen=True)
class FailedCheck:
    """A failed check; its severity is ERROR or WARN."""

    asset: str
    check: str
    severity: str
    found: str


@dataclass(frozen=True)
class Alert:
    """An alert.

    Attributes:
        kind: what happened.
        headline: the same in a few words.
        job: the run's job.
        run_id: the run; it identifies an alert that was received twice.
        steps: failed steps.
        checks: failed checks.
        lines: further lines of text.
        link: the URL of the run.
    """

    kind: Kind
    headline: str
    job: str = ""
    run_id: str = ""
    steps: tuple[FailedStep, ...] = ()
    checks: tuple[FailedCheck, ...] = ()
    lines: tuple[str, ...] = ()
    link: str = ""

    @property
    def text(self) -> str:
        """The alert for people, a line for each failure."""
        return "\n".join(line for line in self._lines() if line)

    @property
    def data(self) -> dict[str, Any]:
        """The alert for programs; ``text`` is what chat programs show."""
        return {
            "text": self.text,
            "kind": self.kind,
            "job": self.job or None,
            "run_id": self.run_id or None,
            "failed_steps": [
                {"step": step.step, "sentence": _short(step.sentence)}
                for step in self.steps[:_SHOWN]
            ],
            "failed_checks": [
                {
                    "asset": check.asset,
                    "check": check.check,
                    "severity": check.severity,
                    "found": _short(check.found),
                }
                for check in self.checks[:_SHOWN]
            ],
            "link": self.link or None,
        }

    def _lines(self) -> Iterator[str]:
        yield self.headline
        for step in self.steps[:_SHOWN]:
            yield f"{step.step}: {_short(step.sentence)}"
        for check in self.checks[:_SHOWN]:
            warns = "" if check.severity == "ERROR" else " (warning)"
            yield f"{check.check} of {check.asset}{warns}: {_short(check.found)}"
        left = sum(max(len(found) - _SHOWN, 0) for found in (self.steps, self.checks))
        yield f"and {left} more" if left else ""
        yield from self.lines
        yield f"run {self.run_id}" if self.run_id else ""
        yield self.link


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
