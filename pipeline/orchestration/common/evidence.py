"""The evidence of a run: what was moved and proven, as an HTML file and as JSON.

Every step adds the part of its table, so a run that fails half way leaves the evidence of the
tables before. With many tables, not every step writes both files again: they may lag by a sixteenth
of the tables, until the last planned table has ended or one is not proven. The HTML file loads
nothing from elsewhere.
"""

import contextlib
import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import sqlalchemy as sa
from pydantic import TypeAdapter

from pipeline.config import environment, settings
from pipeline.core import private
from pipeline.core.errors import PipelineError
from pipeline.core.findings import OFFENDERS, CheckResult, describe
from pipeline.core.messages import DEFAULT_ADDRESS, Address, Message
from pipeline.core.proof import BLOCKING
from pipeline.migrations.declaration import Migration
from pipeline.migrations.registry import Registry
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.run.transaction import MoveResult
from pipeline.orchestration.common import checks
from pipeline.orchestration.common.blob_sizes import BlobSizes, blob_sizes
from pipeline.postgres.target import Target
from pipeline.reporting import evidence_page

REPORT = "pipeline/report"
"""The tag of a run with the path of its evidence."""

_PART = "part-"
_LAG = 16
"""The files lag by at most one table in this many."""


@dataclass(frozen=True)
class CheckEvidence:
    """One check: its outcome in words, its figures, its offenders."""

    name: str
    proves: str
    passed: bool
    blocking: bool
    summary: str
    figures: dict[str, Any]
    findings: list[str]
    offenders: list[dict[str, Any]]


@dataclass(frozen=True)
class TableEvidence:
    """What a run did with a table, and what was proven of it.

    Attributes:
        table: its name.
        at: when the step ended, ISO 8601 in UTC.
        moved: the move's figures; None when the table was checked only, or rolled back.
        seconds: time per phase.
        blobs: sizes of the BLOBs the target holds now.
        checks: every check that was made.
        failure: why the step failed, None if it did not.
        undeclared: tables of the source that are not declared, for the first table of a run.
    """

    table: str
    at: str
    moved: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    blobs: list[BlobSizes] = field(default_factory=list)
    checks: list[CheckEvidence] = field(default_factory=list)
    failure: str | None = None
    undeclared: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether the step did not fail and every blocking check passed."""
        return self.failure is None and all(c.passed for c in self.checks if c.blocking)

    @property
    def unchecked(self) -> list[str]:
        """Blocking checks of a move that this run did not make."""
        made = {check.name for check in self.checks}
        return [name for name in BLOCKING if name not in made]

    @property
    def rows(self) -> dict[str, int] | None:
        """Where the source's rows are, None when they were not counted.

        ``missing`` rows of the source are nowhere, ``surplus`` ones are more than it has.
        """
        counted = next((c.figures for c in self.checks if c.name == "conservation"), {})
        found = self.moved or counted
        if "source_rows" not in found:
            return None
        source = int(found["source_rows"])
        parts = {name: int(found.get(name, 0)) for name in ("moved", "quarantined", "excluded")}
        lost = source - sum(parts.values())
        return {"source": source, **parts, "missing": max(lost, 0), "surplus": max(-lost, 0)}


@dataclass(frozen=True)
class RunEvidence:
    """A run and its tables, in the order in which their steps ended.

    Attributes:
        tables: those whose step has ended.
        planned: names of the tables that the run was started for.
    """

    run_id: str
    job: str
    source: str
    target: str
    tables: list[TableEvidence] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Tables that the run has not come to."""
        there = {table.table for table in self.tables}
        return [name for name in self.planned if name not in there]

    @property
    def proven(self) -> bool:
        """Whether every table was come to, no step failed and every blocking check passed."""
        return (
            bool(self.tables)
            and not self.missing
            and all(table.proven and not table.unchecked for table in self.tables)
        )


def with_blob_sizes(move: MoveResult) -> bool:
    """Whether the evidence has the sizes of all BLOBs; to weigh them costs more than a sync."""
    return move.strategy not in ("synced", "subset")


def of_move(
    move: MoveResult,
    table: sa.Table,
    target: Target,
    *,
    also: Iterable[CheckResult] = (),
    address: Address = DEFAULT_ADDRESS,
) -> TableEvidence:
    """The evidence of a table that moved.

    Args:
        move: what was moved, with its proof.
        table: the table.
        target: a session that sees the committed rows.
        also: checks that were made after the move.
        address: the migration for which commands are written out.
    """
    counted = move.checks["conservation"].figures
    return TableEvidence(
        move.table,
        _now(),
        {
            "strategy": move.strategy,
            **move.figures,
            # Without a comparison no row was counted, in quarantine neither.
            "quarantined": counted["quarantined"],
        },
        {phase: round(seconds, 3) for phase, seconds in move.seconds.items()},
        blob_sizes(target, table) if with_blob_sizes(move) else [],
        [_check(check, address) for check in (*move.checks, *also)],
    )


def with_earlier_failures(
    part: TableEvidence, reported: Iterable[dg.AssetCheckResult]
) -> TableEvidence:
    """A table's part in which checks that are reported as failed since a verification failed."""
    failed = {each.check_name: each.description or "" for each in reported if not each.passed}
    made = [
        replace(check, passed=False, summary=failed[check.name])
        if check.passed and check.blocking and check.name in failed
        else check
        for check in part.checks
    ]
    return replace(part, checks=made)


def of_checks(
    table: str,
    found: Iterable[CheckResult],
    *,
    failure: str | None = None,
    address: Address = DEFAULT_ADDRESS,
) -> TableEvidence:
    """The evidence of a table that was checked, or whose move was rolled back.

    Args:
        table: its name.
        found: its checks.
        failure: why the step failed.
        address: the migration for which commands are written out.
    """
    made = [_check(check, address) for check in found]
    return TableEvidence(table, _now(), checks=made, failure=failure)


def record(folder: Path, run: RunEvidence, part: TableEvidence) -> Path:
    """Add a table's part to a run's evidence, and write HTML and JSON anew if that is due.

    Returns:
        The HTML file; ``evidence.json`` lies beside it.
    """
    private.folder(folder)
    path = folder / f"{_PART}{quote(part.table, safe='')}.json"
    private.replace_text(path, json.dumps(asdict(part), default=str))
    parts = [_adapter().validate_json(each.read_text()) for each in folder.glob(f"{_PART}*.json")]
    whole = replace(run, tables=sorted(parts, key=lambda part: part.at))
    if _is_due(whole):
        data = asdict(whole) | {"proven": whole.proven}
        written = json.dumps(data, indent=2, ensure_ascii=False)
        private.replace_text(folder / "evidence.json", written)
        private.replace_text(folder / "evidence.html", evidence_page.render(whole))
    return folder / "evidence.html"


@functools.cache
def _adapter() -> TypeAdapter[TableEvidence]:
    """Reads parts; it costs much more to build than to use."""
    return TypeAdapter(TableEvidence)


def _is_due(run: RunEvidence) -> bool:
    """Whether the files are written now; after each table, the time would grow quadratically."""
    count = len(run.tables)
    # After a failure, no table is known to be the last, because the ones that follow are skipped.
    known_last = all(table.proven for table in run.tables)
    return not (known_last and run.missing) or count % (1 + count // _LAG) == 0


def save_part(context: dg.AssetExecutionContext, part: TableEvidence) -> Path:
    """Add a table's part to the evidence of the current run, and link it from the run.

    Raises:
        FilesError: the evidence cannot be written.
    """
    loaded = settings.load()
    tables = _tables_of(context, loaded.registry)
    migrations = dict.fromkeys(filter(None, map(loaded.registry.holding, tables)))
    run = RunEvidence(
        context.run.run_id,
        context.run.job_name,
        ", ".join(loaded.origin(each).shown for each in migrations),
        environment.server(loaded).target_shown,
        planned=tables,
    )
    path = record(loaded.reports / run.run_id, run, part)
    if REPORT not in context.run.tags:
        context.instance.add_run_tags(run.run_id, {REPORT: str(path)})
    return path


def save_failure(
    context: dg.AssetExecutionContext, table: str, error: PipelineError, *, migration: Migration
) -> None:
    """Add to the evidence that the step of a table failed, with the checks that explain it."""
    found = error.checks if isinstance(error, ProofFailed) else ()
    address = migration.address
    failure = str(error.for_migration(address))
    # Without valid settings there is no place for the evidence.
    with contextlib.suppress(PipelineError):
        save_part(context, of_checks(table, found, failure=failure, address=address))


def _tables_of(context: dg.AssetExecutionContext, registry: Registry) -> list[str]:
    """Names of the tables that the current run moves or checks."""
    selected = {
        key.to_user_string()
        for data in context.job_def.asset_layer.data
        for key in (
            *data.assets_def.keys,
            *(check.asset_key for check in data.assets_def.check_keys),
        )
    }
    return [
        table.name
        for migration in registry.migrations
        for table in migration.tables
        if table.name in selected
    ]


def _check(check: CheckResult, address: Address) -> CheckEvidence:
    return CheckEvidence(
        check.name,
        checks.DESCRIPTIONS[check.name],
        check.passed,
        check.blocking,
        checks.summary(check, address),
        check.figures,
        [describe(finding, address) for finding in check.findings[:OFFENDERS]],
        [
            {"finding": finding.title, "heading": finding.heading or finding.title}
            | {n: _plain(v, address) for n, v in vars(finding).items()}
            for finding in check.findings[:OFFENDERS]
        ],
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()  # noqa: UP017


def _plain(value: Any, address: Address) -> Any:
    """A value for JSON, in which NULL differs from any text."""
    match value:
        case None | bool() | int():
            return value
        case tuple() | list():
            return [_plain(each, address) for each in value]
        case Message():
            return value.written(address)
    return str(value)
