"""What a verification found stays visible when later moves report the same checks.

Dagster shows a check only if it was evaluated after the asset's latest materialization, and of its
evaluations only the newest. So each move reports every check of its table again:

- A check that the move made shows when it was last verified, and how many rows moves have written
  since then.
- A check that the move did not make is reported as it was, with the time of its result.
- A failed comparison of rows stays failed until a verification, or a move that compares every
  value, has made it again. A sync compares only rows that may have changed.

Dagster's records may be of several targets, so each verification names its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from pipeline.core import proof
from pipeline.core.messages import MIGRATE, VERIFY, Address, message, written
from pipeline.move.run.transaction import MoveResult
from pipeline.orchestration.instance.retrying_storage import again

_ENTRIES = ("verified_at", "verified_by", "verified_in", "verification", "rows_written_since")
_PASSED = "passed"
OF_ROWS = frozenset({*proof.BY_COMPARISON, proof.WITNESS.name})
"""Checks that a sync makes only of rows that may have changed."""
Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Verification:
    """The last time that a check was made of all committed rows.

    Attributes:
        at: when, in seconds since 1970.
        run_id: the run that made it.
        target: the database, without a password.
        outcome: ``passed``, or what was found.
        rows_since: rows that moves have written or deleted since then.
    """

    at: float
    run_id: str
    target: str
    outcome: str
    rows_since: int = 0

    @classmethod
    def of(cls, metadata: Metadata) -> "Verification | None":
        """Read the metadata of a check's result."""
        values: list[Any] = [getattr(metadata.get(name), "value", None) for name in _ENTRIES]
        return None if None in values else cls(*values)

    @property
    def metadata(self) -> dict[str, dg.MetadataValue]:
        """The metadata entries of a check's result."""
        values = (
            dg.MetadataValue.timestamp(self.at),
            dg.MetadataValue.dagster_run(self.run_id),
            dg.MetadataValue.text(self.target),
            dg.MetadataValue.text(self.outcome),
            dg.MetadataValue.int(self.rows_since),
        )
        return dict(zip(_ENTRIES, values, strict=True))

    def later(self, rows: int) -> "Verification":
        """The same verification after a move that has written rows."""
        return replace(self, rows_since=self.rows_since + rows)

    @property
    def passed(self) -> bool:
        """Whether the check passed."""
        return self.outcome == _PASSED

    @property
    def time(self) -> str:
        """When, for sentences."""
        return f"{datetime.fromtimestamp(self.at, timezone.utc):%Y-%m-%d %H:%M} UTC"  # noqa: UP017


@dataclass(frozen=True)
class Reported:
    """The newest result of a check, and the verification that it describes."""

    evaluation: dg.AssetCheckEvaluation
    verification: Verification


def newest(instance: dg.DagsterInstance, table: str, *, target: str) -> dict[str, Reported]:
    """The newest result of each check of a table that has been verified in this target."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return {}
    made = AssetCheckExecutionsTable
    key = dg.AssetKey(table)
    last = (
        sa.select(sa.func.max(made.c.id))
        .where(
            made.c.asset_key == key.to_string(),
            made.c.execution_status.in_(("SUCCEEDED", "FAILED")),
        )
        .group_by(made.c.check_name)
    )
    rows = _rows(storage, sa.select(made).where(made.c.id.in_(last)))
    records = (AssetCheckExecutionRecord.from_db_row(r, key=_key(key, r)) for r in rows)
    evaluations = [each for record in records if (each := record.evaluation)]
    return {
        each.check_name: Reported(each, verification)
        for each in evaluations
        if (verification := Verification.of(each.metadata)) and verification.target == target
    }


@again
def _rows(storage: SqlEventLogStorage, wanted: sa.Select[Any]) -> Sequence[Mapping[Any, Any]]:
    with storage.index_connection() as connection:
        return connection.execute(wanted).mappings().all()


def _key(asset: dg.AssetKey, row: Mapping[Any, Any]) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(asset, row["check_name"])


def made_now(
    results: Iterable[dg.AssetCheckResult], *, run_id: str, target: str
) -> Iterator[dg.AssetCheckResult]:
    """Results of checks that were made of committed rows, with this time and run."""
    at = datetime.now(timezone.utc).timestamp()  # noqa: UP017
    for result in results:
        outcome = _PASSED if result.passed else f"failed: {result.description}"
        yield _changed(result, metadata=Verification(at, run_id, target, outcome).metadata)


def after_move(
    results: Sequence[dg.AssetCheckResult],
    earlier: Mapping[str, Reported],
    move: MoveResult,
    *,
    address: Address,
) -> Iterator[dg.AssetCheckResult]:
    """The results of a move's checks, and earlier results of the others.

    Args:
        results: of the checks that the move made.
        earlier: the newest results before the move.
        move: the move.
        address: the migration for which commands are written out.
    """
    rows = move.written_rows + move.deleted_rows + move.cascaded_rows
    for result in results:
        known = earlier.get(str(result.check_name))
        # Nothing is left of what was verified before all rows were written anew.
        anew = move.strategy == "filled" or move.written_rows == move.target_rows > 0
        if known is None or anew or Verification.of(result.metadata or {}):
            yield result
            continue
        found = known.verification.later(rows)
        undone = not found.passed and _is_partial(move) and result.check_name in OF_ROWS
        if undone and result.passed:
            yield _changed(
                result,
                metadata={**known.evaluation.metadata, **found.metadata},
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=_still_failed(found, address),
            )
        elif found.passed or undone or not result.passed:
            yield _changed(result, metadata=found.metadata)
        else:
            yield result
    made = {result.check_name for result in results}
    if proof.SCHEMA.name in earlier and proof.SCHEMA.name not in made:
        yield _repeated(earlier[proof.SCHEMA.name], rows)


def summary(results: Iterable[dg.AssetCheckResult]) -> dict[str, dg.MetadataValue]:
    """The verification that the checks of a table describe, for the asset's page."""
    found = [each for result in results if (each := Verification.of(result.metadata or {}))]
    if not found:
        return {}
    last = max(found, key=lambda each: each.at)
    failed = "; ".join(each.outcome for each in found if not each.passed)
    return replace(last, outcome=failed or _PASSED).metadata


def _is_partial(move: MoveResult) -> bool:
    return move.strategy in ("synced", "subset")


def _still_failed(found: Verification, address: Address) -> str:
    remedy = written(message("Run ", MIGRATE, " or ", VERIFY, " to compare all rows"), address)
    return (
        f"{found.outcome} (verified {found.time}). Rows that have not changed since then were not"
        f" compared again. {remedy}."
    )


def _repeated(known: Reported, rows: int) -> dg.AssetCheckResult:
    """An earlier result of a check that a move does not make."""
    evaluation = known.evaluation
    found = known.verification.later(rows)
    since = f" (verified {found.time}; not checked again by later moves)"
    described = (evaluation.description or "").removesuffix(since) + since
    return dg.AssetCheckResult(
        asset_key=evaluation.asset_key,
        check_name=evaluation.check_name,
        passed=evaluation.passed,
        # What an earlier run found blocks no later one.
        severity=dg.AssetCheckSeverity.WARN if not evaluation.passed else evaluation.severity,
        description=described,
        metadata={**evaluation.metadata, **found.metadata},
    )


def _changed(result: dg.AssetCheckResult, **changes: Any) -> dg.AssetCheckResult:
    """A result with other values; metadata is added."""
    metadata = {**(result.metadata or {}), **changes.pop("metadata", {})}
    return result._replace(metadata=metadata, **changes)
