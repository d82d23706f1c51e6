"""Findings to asset checks: what each check is called, says and shows.

A move makes its checks within its transaction, which they gate. A verification makes checks of the
same names of committed rows.
"""

from collections.abc import Iterable

import dagster as dg
import sqlalchemy as sa

from pipeline.core import proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult, Conflict, describe
from pipeline.core.messages import ANYBODY, Address
from pipeline.core.printable import printable
from pipeline.migrations.declaration import Migration
from pipeline.reporting import frames

DESCRIPTIONS = {check.name: check.description for check in proof.CHECKS} | {
    "search_indexes": "The indexes are there by which contents and fragments are searched.",
    "gate": "Everything holds that must hold before the application may write to the target.",
    "restorable": "It was restored elsewhere by the code that restores, and every table is equal.",
    "doctor": "Both databases are fit for a move: whole, reachable, with rights and room.",
    "confirmed": "Everything that was written was read back from Anki as it should be.",
    "content_exists": "The content of every card is in PostgreSQL, or waits in quarantine.",
    "one_card": "No content has more than one card.",
    "export_hash": "What was exported of every card is what rendering gives now.",
    "note_exists": "The note of every card is in Anki and has the tag of its content.",
    "edited": "Every note is as it was exported; what a learner edited is left alone.",
    "recordings": "Every file that a note plays is in Anki, with the bytes of its asset.",
    "embedding_card": "The card of every embedding is there.",
    "embedding_dimension": "Every vector has as many numbers as it says.",
    "vector_search": "What is searched are the embeddings, one for each card and side.",
    "published": "Declared tables and columns are published, and nothing else.",
    "no_secrets_published": "No secret, no BLOB and nothing of signing in is published.",
    "triggers": "The feed's tables, functions and triggers are there, enabled and as declared.",
    "channels": "Only members join the channel of a space, and only a user their own.",
    "canary": "An event of every type was made, and arrived with who listens.",
}
"""What every check proves, by name."""


def specs(table: sa.Table) -> list[dg.AssetCheckSpec]:
    """The checks of a table's asset; Dagster gates on those that every move makes."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=table.name,
            description=check.description,
            blocking=check.blocking and check.in_moves,
        )
        for check in proof.CHECKS
    ]


def keys(table: str, names: Iterable[str]) -> list[dg.AssetCheckKey]:
    """The keys of some checks of a table."""
    return [dg.AssetCheckKey(dg.AssetKey(table), name) for name in names]


def failure(error: PipelineError, migration: Migration | None = None) -> dg.Failure:
    """A step's failure, whose text is the error's own, with commands for this migration."""
    said = error if migration is None else error.addressed(migration.address)
    return dg.Failure(description=str(said), allow_retries=False)


def results(
    table: str, checks: Iterable[CheckResult], *, address: Address = ANYBODY
) -> list[dg.AssetCheckResult]:
    """Check results as Dagster shows them; offenders are named in a table.

    Args:
        table: the asset.
        checks: its results.
        address: the migration for which commands are written out.
    """
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            asset_key=table,
            passed=check.passed,
            severity=(
                dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
            ),
            description=summary(check, address),
            metadata=_metadata(check, address),
        )
        for check in checks
    ]


def summary(check: CheckResult, address: Address = ANYBODY) -> str:
    """A check's outcome in a line, which may quote names and values."""
    return printable(_told(check, address))


def _told(check: CheckResult, address: Address) -> str:
    shown = [f"{n} {v:,}" for n, v in check.figures.items() if isinstance(v, int)]
    told = (
        check.blocking
        or "offenders_in_all" in check.figures
        or any(isinstance(finding, Conflict) for finding in check.findings)
    )
    if not check.passed and (told or not shown):
        more = _found(check) - 3
        said = "; ".join(describe(finding, address) for finding in check.findings[:3])
        return said + (f"; and {more} more" if more > 0 else "") or "failed"
    return ", ".join(shown).replace("_", " ") or "nothing to report"


def _found(check: CheckResult) -> int:
    """How many offenders there are; a check names only some."""
    counted = sum(int(check.figures.get(name, 0)) for name in ("missing", "extra"))
    return max(counted, len(check.findings))


def _metadata(check: CheckResult, address: Address) -> dict[str, dg.MetadataValue]:
    shown: dict[str, dg.MetadataValue] = {}
    for name, value in check.figures.items():
        match value:
            case bool() | str():
                shown[name] = dg.MetadataValue.text(str(value))
            case int():
                shown[name] = dg.MetadataValue.int(value)
            case float():
                shown[name] = dg.MetadataValue.float(value)
            case _:
                shown[name] = dg.MetadataValue.json(value)
    if check.findings:
        shown["offenders"] = dg.MetadataValue.md(
            frames.markdown(frames.offenders(check.findings, address))
        )
    return shown
