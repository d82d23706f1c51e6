"""The outcome of a run, as read from its events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from pipeline.core import proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import Quarantined
from pipeline.core.quoting import printable
from pipeline.orchestration.common import verifications
from pipeline.orchestration.common.metadata import NEW_REASONS

_ENDED_FROM_OUTSIDE = frozenset({"KeyboardInterrupt", "DagsterExecutionInterruptedError"})


_LISTED = 3
"""At most this many skipped steps have a sentence each."""


@dataclass(frozen=True)
class Rows:
    """Where the source's rows are.

    Attributes:
        source: those that the run answers for; rows outside a subset are not among them.
        moved: those that the target has.
    """

    source: int
    moved: int
    quarantined: int

    def __add__(self, other: "Rows") -> "Rows":
        """The rows of both."""
        return Rows(
            self.source + other.source,
            self.moved + other.moved,
            self.quarantined + other.quarantined,
        )

    @property
    def hardly_any(self) -> bool:
        """Whether less than half of the rows arrived."""
        return self.moved < self.source / 2


@dataclass
class TableReport:
    """The metadata and checks of one table in a run."""

    name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dg.AssetCheckEvaluation] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether checks were made, and none failed with the severity error."""
        failed = [
            c
            for c in self.checks.values()
            if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR
        ]
        return bool(self.checks) and not failed

    @property
    def unresolved(self) -> list[str]:
        """Checks of rows that failed in a verification, and whose rows were not compared again."""
        return [
            name
            for name, check in self.checks.items()
            if not check.passed and name in verifications.OF_ROWS and self._repeats(check)
        ]

    @property
    def moved(self) -> bool:
        """Whether the run moved the table, instead of only checking it."""
        return "strategy" in self.metadata

    @property
    def rows(self) -> Rows | None:
        """Where the source's rows are; None if they were not counted."""
        counted = self.metadata
        if self.moved and counted["strategy"] != "subset":
            # A sync compares a few rows; the target's rows are known of all.
            moved, quarantined = counted["dagster/row_count"], counted["quarantined"]
            return Rows(moved + quarantined, moved, quarantined)
        if not self.moved:
            counted = self._figures(proof.CONSERVATION.name)
            if "source_rows" not in counted or not self.checks[proof.CONSERVATION.name].passed:
                return None
        source = counted["source_rows"] - counted.get("excluded", 0)
        return Rows(source, counted["moved"], counted["quarantined"])

    @property
    def compared(self) -> bool:
        """Whether any row was compared, or the checks cover the whole table."""
        return bool(self._figures(proof.KEYS.name).get("compared", True))

    @property
    def changed(self) -> bool:
        """Whether the move changed the target or quarantine."""
        counted = [self.metadata.get(name) for name in ("written", "deleted", "cascaded")]
        return (
            any(counted)
            or self.metadata.get("strategy") in ("filled", "subset")
            or NEW_REASONS in self.metadata
        )

    @staticmethod
    def _repeats(check: dg.AssetCheckEvaluation) -> bool:
        """Whether a warning tells what an earlier verification found."""
        found = verifications.Verification.of(check.metadata)
        return check.severity == dg.AssetCheckSeverity.WARN and not (found is None or found.passed)

    def _figures(self, check: str) -> dict[str, Any]:
        """The figures of a check; none if it was not made."""
        found: Any = self.checks[check].metadata if check in self.checks else {}
        return {name: value.value for name, value in found.items()}

    def reasons(self, name: str) -> list[Quarantined]:
        """Reasons for quarantine, from an entry of the metadata."""
        return [Quarantined(table=self.name, **each) for each in self.metadata.get(name, [])]


def tables_of(events: Iterable[dg.DagsterEvent]) -> list[TableReport]:
    """The tables of a run, in the order of their first event."""
    found: dict[str, TableReport] = {}
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            data: Any = event.event_specific_data
            table = data.asset_key.to_user_string()
            found.setdefault(table, TableReport(table)).checks[data.check_name] = data
        elif event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            if "strategy" not in materialization.metadata:
                continue
            table = materialization.asset_key.to_user_string()
            found.setdefault(table, TableReport(table)).metadata = {
                name: getattr(value, "value", value)
                for name, value in materialization.metadata.items()
            }
    return list(found.values())


def failures_of(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    """A sentence for each failed step, and for steps that were skipped because of it."""
    started = {event.step_key for event in result.all_events if event.is_step_start}
    for event in result.all_events:
        if event.is_step_failure:
            yield sentence_of(event)
    names = [node.name for node in result.job_def.nodes_in_topological_order]
    skipped = [name for name in names if started and name not in started]
    # Many lines would bury the reason.
    for each in skipped if len(skipped) <= _LISTED else [", ".join(skipped)]:
        yield f"{each} did not run because an earlier step failed."


def sentence_of(event: dg.DagsterEvent) -> str:
    """Why a step failed: the error's own sentence, or a fault of the program."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    if cause is None:
        return "A step failed without a message."
    text = printable(cause.message.strip())
    if cause.cls_name in _ENDED_FROM_OUTSIDE:
        return text
    if cause.cls_name in _names(PipelineError):
        return text.partition(": ")[2]
    return (
        f"{event.step_key} failed because of a bug in the pipeline ({text})."
        " Report it with the traceback that the UI shows for the run."
    )


def _names(kind: type[Exception]) -> set[str]:
    """Names of a class and of all its subclasses."""
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))
