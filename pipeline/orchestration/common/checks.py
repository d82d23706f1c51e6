"""Check results as Dagster's asset checks: specifications, summaries and metadata.

A move makes its checks within its transaction and rolls back if one of them fails. A verification
makes the same checks for committed rows.
"""

from collections.abc import Iterable

import dagster as dg
import sqlalchemy as sa

from pipeline.core import proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult, Conflict, describe
from pipeline.core.messages import DEFAULT_ADDRESS, Address
from pipeline.core.quoting import printable
from pipeline.migrations.declaration import Migration
from pipeline.reporting import frames

DESCRIPTIONS = {check.name: check.description for check in proof.CHECKS} | {
    "search_indexes": (
        "The indexes for full-text search exist. A failure means that search is slow or impossible."
    ),
    "gate": "Every condition for the cut-over is met. A failure names those that are not.",
    "restorable": (
        "The backup was restored elsewhere, and every table equals the original. A failure names"
        " what differs."
    ),
    "doctor": (
        "Both databases are ready for a move. A failure names what is missing: integrity,"
        " connectivity, TLS, privileges or disk space."
    ),
    "confirmed": (
        "Anki returns every written note as it was written, and every new note in its deck. A"
        " failure names notes that differ."
    ),
    "content_exists": (
        "The content of every card is in PostgreSQL or in quarantine. A failure names cards"
        " without content."
    ),
    "one_card": "No content has more than one card. A failure names such contents.",
    "export_hash": (
        "Every card was exported in its current form. A warning names cards whose content has"
        " changed since the export."
    ),
    "note_exists": (
        "The note of every card is in Anki and is tagged with its content. A failure names"
        " missing or untagged notes."
    ),
    "edited": (
        "No note was edited in Anki after the export. A warning names edited notes, which are kept."
    ),
    "recordings": (
        "Every recording that a note plays is in Anki with the bytes of its asset. A failure"
        " names missing or different files."
    ),
    "embedding_card": "Every embedding has a card. A failure names embeddings without one.",
    "embedding_dimension": (
        "Every vector has the declared dimension. A failure names vectors that differ."
    ),
    "vector_search": (
        "The search index contains exactly the embeddings, one for each card and side. A failure"
        " names what is missing or extra."
    ),
    "published": (
        "The publication contains the declared tables and columns, and nothing else. A"
        " failure names what differs."
    ),
    "no_secrets_published": (
        "No secret, BLOB or sign-in table is published. A failure names what is exposed."
    ),
    "triggers": (
        "The feed's tables, functions and triggers exist as declared and are enabled. A failure"
        " means that changes may not be published."
    ),
    "channels": (
        "Only members can join the channel of a space, and users only their own. A failure"
        " names policies that differ."
    ),
    "canary": (
        "A test event of every type reached a subscriber. A failure names events that did not"
        " arrive."
    ),
}
"""What each check proves, and what a failure means."""


def specs(table: sa.Table) -> list[dg.AssetCheckSpec]:
    """The checks of a table's asset; those that every move makes can block."""
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
    """A step's failure with the text of an error, its commands written for a migration."""
    written = error if migration is None else error.for_migration(migration.address)
    return dg.Failure(description=str(written), allow_retries=False)


def results(
    table: str,
    checks: Iterable[CheckResult],
    *,
    address: Address = DEFAULT_ADDRESS,
    only_warn: bool = False,
) -> list[dg.AssetCheckResult]:
    """Check results for Dagster, with a table of offenders.

    Args:
        table: the asset.
        checks: the results.
        address: the migration for which commands are written out.
        only_warn: a failure is a warning, because the run was not started for these checks.
    """
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            asset_key=table,
            passed=check.passed,
            severity=(
                dg.AssetCheckSeverity.ERROR
                if check.blocking and not only_warn
                else dg.AssetCheckSeverity.WARN
            ),
            description=summary(check, address),
            metadata=_metadata(check, address),
        )
        for check in checks
    ]


def summary(check: CheckResult, address: Address = DEFAULT_ADDRESS) -> str:
    """A check's outcome in one line, safe to print."""
    return printable(_summary(check, address))


def _summary(check: CheckResult, address: Address) -> str:
    shown = [f"{n} {v:,}" for n, v in check.figures.items() if isinstance(v, int)]
    by_findings = (
        check.blocking
        or "offenders_in_all" in check.figures
        or any(isinstance(finding, Conflict) for finding in check.findings)
    )
    if not check.passed and (by_findings or not shown):
        more = _offenders(check) - 3
        first = "; ".join(describe(finding, address) for finding in check.findings[:3])
        return first + (f"; and {more} more" if more > 0 else "") or "failed"
    return ", ".join(shown).replace("_", " ") or "nothing to report"


def _offenders(check: CheckResult) -> int:
    """The number of offenders, of which a check names only some."""
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
