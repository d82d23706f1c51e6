"""The result of a copy for people, and as JSON."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import LeftOut
from pipeline.core.findings import describe
from pipeline.core.quoting import size
from pipeline.mapping.casts.types import type_name


@dataclass(frozen=True)
class Line:
    """A line and its style."""

    text: str
    style: str = ""


_OUTCOMES = {
    "copied": "copied",
    "updated": "updated",
    "unchanged": "unchanged",
    "differs": "differs",
    "failed": "failed",
}


def of_table(result: TableResult) -> Line:
    """What happened to one table."""
    name = result.table
    if result.outcome == "failed":
        return Line(f"{name}: failed. {result.error}", "red")
    what = f"{_rows(result.rows)}, {size(result.bytes)}"
    if result.outcome == "differs":
        return Line(f"{name}: {_changes(result)} would be written ({what})", "red")
    changes = f" ({_changes(result)})" if result.outcome == "updated" else ""
    text = f"{name}: {result.outcome}{changes}, {what}, {result.values:,} values proven"
    if result.quarantined:
        return Line(f"{text}; {_rows(result.quarantined)} in quarantine", "red")
    return Line(text)


def summary(result: CopyResult) -> Iterator[Line]:
    """What was left out, what is proposed, and the outcome in the last line."""
    for left in result.all_left:
        yield Line(f"not carried: {left.sentence}", "yellow")
    for name, reason in result.behind.items():
        yield Line(f"left behind: {name}: {reason}", "red")
    for hint in result.hints:
        yield Line(f"proposal: {hint}")
    yield _last(result)


def _last(result: CopyResult) -> Line:
    rows = sum(table.rows for table in result.tables)
    outcomes = Counter(table.outcome for table in result.tables)
    tables = ", ".join(f"{count} {_OUTCOMES[name]}" for name, count in outcomes.items())
    count = len(result.tables)
    text = f"{count} table{'s' * (count != 1)} ({tables or 'none'}), {_rows(rows)}"
    if result.proven:
        return Line(f"{text}: every value proven in {result.seconds:.1f} s", "green")
    behind = [f"{len(result.behind)} left behind"] if result.behind else []
    quarantined = sum(table.quarantined for table in result.tables)
    behind += [f"{_rows(quarantined)} in quarantine"] if quarantined else []
    failed = outcomes["failed"] + outcomes["differs"]
    behind += [f"{failed} not proven"] if failed else []
    return Line(f"{text}: {', '.join(behind)}", "red")


def _changes(result: TableResult) -> str:
    return f"{_rows(result.written)} written, {result.deleted:,} deleted"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def ddl(plan: CopyPlan) -> Iterator[str]:
    """The statements that a copy will try, parents first."""
    for unit in plan.units:
        for name in unit:
            yield f"{plan.tables[name].ddl()};"
        for name in unit:
            yield from (f"{extra.statement};" for extra in plan.extras[name].own)
        for name in unit:
            yield from (f"{extra.statement};" for extra in plan.extras[name].references)
    for left in [*plan.left, *(left for each in plan.extras.values() for left in each.left)]:
        yield f"-- not carried: {_one_line(left.sentence)}"
    for name, reason in plan.behind.items():
        yield f"-- left behind: {_one_line(f'{name}: {reason}')}"
    for hint in plan.hints:
        yield f"-- proposal: {_one_line(hint)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def plan_as_json(plan: CopyPlan) -> dict[str, Any]:
    """A plan for programs."""
    return {
        "source": plan.source.source,
        "tables": _census(plan),
        "ddl": [line for line in ddl(plan) if not line.startswith("--")],
        "not_carried": [
            _left(left)
            for left in [*plan.left, *(each for e in plan.extras.values() for each in e.left)]
        ],
        "left_behind": plan.behind,
    }


def as_json(result: CopyResult, plan: CopyPlan) -> dict[str, Any]:
    """A result for programs."""
    return {
        "run_id": result.run_id,
        "source": result.source,
        "target": result.target,
        "proven": result.proven,
        "seconds": round(result.seconds, 3),
        "tables": [_table(table) for table in result.tables],
        "not_carried": [_left(left) for left in result.all_left],
        "left_behind": result.behind,
        "census": _census(plan),
    }


def _table(result: TableResult) -> dict[str, Any]:
    found = asdict(result)
    found["findings"] = [describe(finding) for finding in result.findings]
    found["left"] = [_left(left) for left in result.left]
    found["seconds"] = round(result.seconds, 3)
    return found


def _left(left: LeftOut) -> dict[str, str]:
    return {"kind": left.kind, "table": left.table, "name": left.name, "reason": left.reason}


def _census(plan: CopyPlan) -> dict[str, Any]:
    return {
        table.label: {
            "rows": table.rows,
            "bytes": table.bytes,
            "columns": {
                column.name: {
                    "declared": table.mapping.declared[column.name],
                    "type": type_name(column.type),
                    "why": decision.why,
                    "hint": decision.hint,
                }
                for column, decision in zip(
                    table.mapping.columns,
                    plan.decisions[table.source.name].values(),
                    strict=True,
                )
            },
        }
        for table in plan.tables.values()
    }
