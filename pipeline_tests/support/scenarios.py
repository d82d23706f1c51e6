"""Golden scenarios: SQL on either side, and the whole outcome that is expected.

A file holds blocks like this one, with a blank line between two of them::

    # a missing row
    target rankings
    DELETE FROM rankings WHERE id = 3;
    ----
    keys failed: compared 12, missing 1, extra 0
      rankings 3 is missing in the target

The line after the name says on which side the SQL runs, and which table is verified. The outcome
lists each check that differs from that of an intact table, with its figures and its findings. With
``WRITE_SCENARIOS=1`` in the environment a test that fails writes the outcome to its file; read the
difference before you commit it.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.findings import CheckResult, describe

FOLDER = Path(__file__).parent.parent / "engine" / "scenarios"
WRITE = "WRITE_SCENARIOS" in os.environ


@dataclass(frozen=True)
class Scenario:
    """One block of a file."""

    file: Path
    name: str
    side: str
    table: str
    sql: str
    expected: str

    def check(self, outcome: str) -> None:
        """Compare the outcome with the expected one, or write it."""
        if WRITE and outcome != self.expected:
            blocks = {each.name: each for each in scenarios(self.file.stem)}
            blocks[self.name] = replace(self, expected=outcome)
            self.file.write_text("\n".join(map(str, blocks.values())))
        assert outcome.splitlines() == self.expected.splitlines()

    def __str__(self) -> str:
        """The block, as the file has it."""
        head = f"# {self.name}\n{self.side} {self.table}\n"
        sql = f"{self.sql}\n" if self.sql else ""
        return f"{head}{sql}----\n{self.expected}"


def scenarios(name: str) -> list[Scenario]:
    """The scenarios of a file."""
    file = FOLDER / f"{name}.txt"
    return [_scenario(file, block) for block in file.read_text().split("\n\n")]


def _scenario(file: Path, block: str) -> Scenario:
    head, _, expected = block.partition("\n----")
    title, place, *sql = head.splitlines()
    side, _, table = place.partition(" ")
    expected = expected.strip("\n")
    return Scenario(
        file, title.removeprefix("# "), side, table, "\n".join(sql), expected and f"{expected}\n"
    )


def outcome(checks: dict[str, CheckResult], intact: dict[str, CheckResult]) -> str:
    """The checks that differ from those of an intact table; all of them if there is none."""
    return "".join(_lines(check) for name, check in checks.items() if check != intact.get(name))


def _lines(check: CheckResult) -> str:
    state = "passed" if check.passed else "failed" if check.blocking else "warning"
    figures = ", ".join(f"{name} {value}" for name, value in check.figures.items())
    found = "".join(f"  {describe(each)}\n" for each in check.findings)
    return f"{check.name} {state}{': ' if figures else ''}{figures}\n{found}"
