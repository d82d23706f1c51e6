"""Newest results of checks, in the ledger: what gates read.

A move writes the results of its proof in its own transaction. A result that failed is written after
the rollback. Each gate decides what a missing result means.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.core import proof
from pipeline.core.findings import CheckResult
from pipeline.core.quoting import literal
from pipeline.declared import ledger
from pipeline.postgres.target import Target

_OF_ROWS = ", ".join(map(literal, sorted((*proof.BY_COMPARISON, proof.WITNESS.name))))
"""The checks that compare rows, or a part of them."""


@dataclass(frozen=True)
class Recorded:
    """A recorded result.

    Attributes:
        rules: of a plan, the digest of the rules that it used.
    """

    name: str
    passed: bool
    blocking: bool
    rules: str | None
    at: datetime


def statement(
    subject: str,
    checks: Iterable[CheckResult],
    *,
    run_id: str,
    rules: str | None = None,
    whole: bool = True,
    verification: bool = False,
) -> str:
    """One statement that stores results; it also creates the table if it is missing.

    Args:
        subject: the asset.
        checks: at least one result.
        rules: of a plan, the digest of the rules that it used.
        whole: all rows were compared; otherwise a pass does not replace a failure that a
            verification has found, which may concern other rows.
        verification: committed rows were checked.
    """
    stored = "NULL" if rules is None else literal(rules)
    rows = ", ".join(
        f"({literal(subject)}, {literal(check.name)}, {check.passed}, {check.blocking}, {stored},"
        f" {verification}, {literal(run_id)})"
        for check in checks
    )
    return f"""
DO $checks$ BEGIN
  IF to_regclass('{ledger.checks.fullname}') IS NULL THEN
    {ledger.TAKE_TURNS};
    IF to_regnamespace('{ledger.SCHEMA}') IS NULL THEN CREATE SCHEMA {ledger.SCHEMA}; END IF;
    {ledger.CREATE_CHECKS};
  END IF;
  INSERT INTO {ledger.checks.fullname} AS c
    (subject, name, passed, blocking, rules, verification, run_id)
    VALUES {rows}
    ON CONFLICT (subject, name) DO UPDATE SET passed = EXCLUDED.passed,
      blocking = EXCLUDED.blocking, rules = EXCLUDED.rules,
      verification = EXCLUDED.verification, run_id = EXCLUDED.run_id, at = now()
    WHERE {whole} OR c.passed OR NOT c.verification OR NOT EXCLUDED.passed
      OR c.name NOT IN ({_OF_ROWS});
END $checks$
"""


def write(
    target: Target,
    subject: str,
    checks: Iterable[CheckResult],
    *,
    run_id: str,
    rules: str | None = None,
    verification: bool = False,
) -> None:
    """Store the results of a subject, if there are any, in one round trip; see ``statement``."""
    made = list(checks)
    if made:
        target.run(statement(subject, made, run_id=run_id, rules=rules, verification=verification))


def read(target: Target, subjects: Sequence[str]) -> dict[tuple[str, str], Recorded]:
    """The recorded results of some assets, by asset and check."""
    if not target.value(f"SELECT to_regclass('{ledger.checks.fullname}') IS NOT NULL"):
        return {}
    found = target.rows(
        f"SELECT subject, name, passed, blocking, rules, at FROM {ledger.checks.fullname}"
        " WHERE subject = ANY($1)",
        (list(subjects),),
    )
    return {(subject, row[0]): Recorded(*row) for subject, *row in found}
