"""The checks of a table, and the proof that they make together.

One table of checks says what each is called, what it proves, whether a move that fails it is
rolled back, and when it is made: within every move, or by ``verify`` of what is committed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.core.findings import CheckResult, Finding


@dataclass(frozen=True)
class Check:
    """A kind of check.

    Attributes:
        name: as it is stored.
        description: what holds if it passes.
        blocking: a move that fails it is rolled back, and the table's children do not move.
        in_moves: it is made within every move.
        standing: it is made of what is committed, without a move.
    """

    name: str
    description: str
    blocking: bool = True
    in_moves: bool = True
    standing: bool = True

    def result(
        self,
        findings: Iterable[Finding] = (),
        figures: dict[str, Any] | None = None,
        *,
        passed: bool | None = None,
    ) -> CheckResult:
        """The outcome of this check; it passed if it found nothing, unless ``passed`` says."""
        found = tuple(findings)
        passed = not found if passed is None else passed
        return CheckResult(self.name, passed, self.blocking, found, figures or {})


CONSERVATION = Check(
    "conservation", "Source rows = moved + quarantined + excluded, each counted where it lies."
)
KEYS = Check("keys", "Both sides hold the same keys; none is missing, none is extra.")
DIGESTS = Check(
    "digests", "Every value was read back and is equal; BLOBs by their MD5 on either side."
)
FOREIGN_KEYS = Check("foreign_keys", "Every row has its parent, and every foreign key is valid.")
SEQUENCES = Check("sequences", "The next id is larger than every id there is.")
WITNESS = Check(
    "witness", "The server's hashes of its rows equal those of a second, independent reader."
)
SCHEMA = Check(
    "schema",
    "Columns, types, defaults, constraints and indexes are as declared, and valid.",
    in_moves=False,
)
ACCESS = Check(
    "access",
    "Every role of Supabase may do what is declared, and was kept from all else.",
    in_moves=False,
)
DRIFT = Check(
    "drift", "Source and declared schema agree on columns.", blocking=False, standing=False
)
QUARANTINE = Check("quarantine", "No row waits in quarantine.", blocking=False)
CONVERSIONS = Check(
    "conversions", "No value was changed in a way that cannot be undone.", blocking=False
)
OVERRIDES = Check(
    "mended",
    "No value stands in the place of the source's because a person mended it.",
    blocking=False,
)
CONFLICTS = Check(
    "conflicts",
    "No row was changed in the target as well; of those that were, one side is kept.",
    blocking=False,
    standing=False,
)

CHECKS = (
    *(CONSERVATION, KEYS, DIGESTS, FOREIGN_KEYS, SEQUENCES, WITNESS, SCHEMA, ACCESS),
    *(DRIFT, QUARANTINE, CONVERSIONS, OVERRIDES, CONFLICTS),
)
BY_COMPARISON = (CONSERVATION.name, KEYS.name, DIGESTS.name)
"""Checks that need both sides read."""
OF_A_MOVE = tuple(check.name for check in CHECKS if check.in_moves)
BLOCKING = tuple(check.name for check in CHECKS if check.in_moves and check.blocking)
STANDING = tuple(check.name for check in CHECKS if check.standing)


@dataclass(frozen=True)
class Proof:
    """The checks that were made of one table, in the order in which they were made."""

    checks: tuple[CheckResult, ...]

    def __getitem__(self, name: str) -> CheckResult:
        """The check of a name."""
        return next(check for check in self.checks if check.name == name)

    def __iter__(self) -> Iterator[CheckResult]:
        """Every check."""
        return iter(self.checks)

    @property
    def failed(self) -> list[str]:
        """Names of the blocking checks that failed."""
        return [check.name for check in self.checks if check.blocking and not check.passed]
