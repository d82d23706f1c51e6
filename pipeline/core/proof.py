"""The checks of a table, and their results as a proof.

For each check: its name, what it proves and what a failure means, whether a move that fails it is
rolled back, and whether moves make it, verifications of committed rows, or both.
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
        in_verification: it is made of committed rows, without a move.
    """

    name: str
    description: str
    blocking: bool = True
    in_moves: bool = True
    in_verification: bool = True

    def result(
        self,
        findings: Iterable[Finding] = (),
        figures: dict[str, Any] | None = None,
        *,
        passed: bool | None = None,
    ) -> CheckResult:
        """The result of this check; without ``passed``, it passed if there are no findings."""
        found = tuple(findings)
        passed = not found if passed is None else passed
        return CheckResult(self.name, passed, self.blocking, found, figures or {})


CONSERVATION = Check(
    "conservation",
    "Every source row is accounted for: source rows = moved + quarantined + excluded. A failure"
    " means that rows were lost or duplicated.",
)
KEYS = Check(
    "keys",
    "Source and target have the same keys. A failure names keys that are missing in the target or"
    " exist only there.",
)
DIGESTS = Check(
    "digests",
    "Every value in the target equals the source's, proven by a digest of each column and key"
    " range, or by reading the values back; BLOBs are compared by MD5. A failure names the rows and"
    " columns that differ.",
)
FOREIGN_KEYS = Check(
    "foreign_keys",
    "Every row has its parent, and the server has validated every foreign key. A failure names"
    " rows without a parent, or keys that the server does not enforce.",
)
SEQUENCES = Check(
    "sequences",
    "The next generated id is larger than every existing id, and than every id that AUTOINCREMENT"
    " assigned in the source. A failure means that an insert of the application would be rejected,"
    " or that the id of a deleted row would be assigned again.",
)
WITNESS = Check(
    "witness",
    "A second reader, which shares no code with the engine, computes the same hashes as the"
    " server. A failure names columns in which the engine changed values without noticing.",
)
SCHEMA = Check(
    "schema",
    "Columns, types, defaults, constraints, indexes, rights and policies are as declared, and every"
    " role of Supabase can do what is declared and nothing else. A failure names what differs.",
    in_moves=False,
)
DRIFT = Check(
    "drift",
    "Source and declaration agree on the columns. A warning names columns that only one of them"
    " has, or whose types differ.",
    blocking=False,
)
QUARANTINE = Check(
    "quarantine",
    "No row is in quarantine. A warning counts the rejected rows by reason; the ledger keeps them"
    " until they can be moved.",
    blocking=False,
)
CONVERSIONS = Check(
    "conversions",
    "No value was converted with loss, such as by rounding. A warning names such values; the ledger"
    " keeps the originals.",
    blocking=False,
)
OVERRIDES = Check(
    "overrides",
    "No value of the source was overridden manually. A warning names such values.",
    blocking=False,
)
CONFLICTS = Check(
    "conflicts",
    "No row was changed in both the source and the target. A warning names such rows, and"
    " which side was kept.",
    blocking=False,
    in_verification=False,
)

CHECKS = (
    *(CONSERVATION, KEYS, DIGESTS, FOREIGN_KEYS, SEQUENCES, WITNESS, SCHEMA),
    *(DRIFT, QUARANTINE, CONVERSIONS, OVERRIDES, CONFLICTS),
)
BY_COMPARISON = (CONSERVATION.name, KEYS.name, DIGESTS.name)
"""Checks that read both databases."""
MOVE_CHECKS = tuple(check.name for check in CHECKS if check.in_moves)
BLOCKING = tuple(check.name for check in CHECKS if check.in_moves and check.blocking)
OF_A_VERIFICATION = tuple(check.name for check in CHECKS if check.in_verification)


@dataclass(frozen=True)
class Proof:
    """Check results of one table, in the order in which the checks ran."""

    checks: tuple[CheckResult, ...]

    def __getitem__(self, name: str) -> CheckResult:
        """The result of a check, by name."""
        return next(check for check in self.checks if check.name == name)

    def __iter__(self) -> Iterator[CheckResult]:
        """All results."""
        return iter(self.checks)

    @property
    def failed(self) -> list[str]:
        """Names of the blocking checks that failed."""
        return [check.name for check in self.checks if check.blocking and not check.passed]
