"""Findings to asset checks: what each check is called, says and shows."""

from collections.abc import Iterable

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipeline.metadata import markdown_table
from pipeline.move.findings import OFFENDERS, CheckResult, Finding, say

DESCRIPTIONS = {
    "conservation": "Source rows = moved + quarantined, each counted where it lies.",
    "keys": "Both sides hold the same keys; none is missing, none is extra.",
    "digests": "Every value was read back and is equal; BLOBs by their MD5 on either side.",
    "foreign_keys": "Every row has its parent, and every foreign key is valid.",
    "sequences": "The next id is larger than every id there is.",
    "drift": "Source and declared schema agree on columns.",
    "quarantine": "No row waits in quarantine.",
    "conversions": "No value was changed in a way that cannot be undone.",
}
"""What every check of a move proves, by name."""

BLOCKING = ("conservation", "keys", "digests", "foreign_keys", "sequences")
"""A move whose check of this name fails is rolled back, and its children do not run."""


def specs(table: sa.Table) -> list[dg.AssetCheckSpec]:
    """The checks that are evaluated within the move of a table."""
    return [
        dg.AssetCheckSpec(
            name, asset=table.name, description=description, blocking=name in BLOCKING
        )
        for name, description in DESCRIPTIONS.items()
    ]


def results(table: str, checks: Iterable[CheckResult]) -> list[dg.AssetCheckResult]:
    """Check results as Dagster shows them; offenders are named in a table."""
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            asset_key=table,
            passed=check.passed,
            severity=(
                dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
            ),
            description=summary(check),
            metadata=_metadata(check),
        )
        for check in checks
    ]


def summary(check: CheckResult) -> str:
    """A check's outcome in a line."""
    shown = [f"{n} {v:,}" for n, v in check.figures.items() if isinstance(v, int)]
    if not check.passed and (check.blocking or not shown):
        more = len(check.findings) - 3
        said = "; ".join(say(finding) for finding in check.findings[:3])
        return said + (f"; and {more} more" if more > 0 else "") or "failed"
    return ", ".join(shown).replace("_", " ") or "nothing to report"


def _metadata(check: CheckResult) -> dict[str, dg.MetadataValue]:
    shown: dict[str, dg.MetadataValue] = {}
    for name, value in check.figures.items():
        match value:
            case bool() | str():
                shown[name] = dg.MetadataValue.text(str(value))
            case int():
                shown[name] = dg.MetadataValue.int(value)
            case _:
                shown[name] = dg.MetadataValue.json(value)
    if check.findings:
        shown["offenders"] = dg.MetadataValue.md(markdown_table(offenders(check.findings)))
    return shown


def offenders(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table for people, at most as many as a check names."""
    rows = [
        {"finding": type(finding).__name__, **_plain(finding)}
        for finding in list(findings)[:OFFENDERS]
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")


def _plain(finding: Finding) -> dict[str, object]:
    return {name: value for name, value in vars(finding).items() if name != "table"}
