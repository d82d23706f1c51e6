"""Data frames with text for people, for the terminal, the UI and the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.anki.outcomes import Outcome
from pipeline.core.findings import OFFENDERS, Drift, Finding, Lossy, Quarantined
from pipeline.core.messages import DEFAULT_ADDRESS, Address, Message, written
from pipeline.core.quoting import printable, size
from pipeline.cutover.gate import Answer
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.move.run.plan import TablePlan

Frames = dict[str, pd.DataFrame]

_MARKDOWN = str.maketrans(
    {"\\": "\\\\", "|": "\\|", "[": "\\[", "]": "\\]", "`": "\\`", "&": "&amp;", "<": "&lt;"}
)


def offenders(findings: Iterable[Finding], address: Address = DEFAULT_ADDRESS) -> pd.DataFrame:
    """Findings, at most as many as a check lists."""
    rows = [
        {"finding": finding.title, **_without_table(finding, address)}
        for finding in list(findings)[:OFFENDERS]
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")


def of_plan(plans: Sequence[TablePlan]) -> Frames:
    """Plans, one frame for each aspect."""
    return {
        "Would move": _frame(
            {
                "table": plan.table,
                "rows": f"{plan.rows:,}",
                "size": size(plan.bytes),
                "rejected": f"{plan.rejected_rows:,}",
                "lossy values": f"{sum(lossy.values for lossy in plan.lossy):,}",
                "target holds": "no table" if plan.target_rows is None else f"{plan.target_rows:,}",
                "seconds": f"{plan.seconds:.1f}",
            }
            for plan in plans
        ),
        "Obstacles": _frame(
            {"table": plan.table, "obstacle": plan.obstacle} for plan in plans if plan.obstacle
        ),
        "Would be rejected": _frame(_reason(r) for plan in plans for r in plan.rejections),
        "Would be converted with loss": _frame(
            _lossy(lossy) for plan in plans for lossy in plan.lossy
        ),
        "Forms that a setting can declare": _frame(
            {
                "table": found.table,
                "column": found.column,
                "form": found.form,
                "values": f"{found.values:,}",
                "for example": f"{found.example} is {found.meaning}",
            }
            for plan in plans
            for found in plan.proposals
        ),
        "Drift": _frame(
            [
                *(_drift(drift) for plan in plans for drift in plan.drift),
                *(
                    {
                        "table": plan.table,
                        "column": column,
                        "drift": "target only",
                        "detail": "stays unchanged",
                    }
                    for plan in plans
                    for column in plan.target_only
                ),
            ]
        ),
        "Columns": _frame(
            {
                "table": plan.table,
                "column": column.name,
                "source": column.source_type,
                "target": column.target_type,
                "holds": _counts(column.storage),
            }
            for plan in plans
            for column in plan.columns
        ),
        "Dates": _frame(
            {
                "table": plan.table,
                "column": column.name,
                "form": form,
                "values": f"{values:,}",
            }
            for plan in plans
            for column in plan.columns
            for form, values in column.date_formats.items()
        ),
    }


def reasons(found: Iterable[Quarantined]) -> pd.DataFrame:
    """Reasons why rows are or would be quarantined."""
    return _frame(_reason(each) for each in found)


def outcome_frame(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Results of contents in Anki."""
    return _frame(
        {
            "content": outcome.content_id,
            "title": outcome.title,
            "action": outcome.action,
            "detail": outcome.detail,
        }
        for outcome in outcomes
    )


def diagnostic_frame(
    diagnostics: Iterable[Diagnostic], address: Address = DEFAULT_ADDRESS
) -> pd.DataFrame:
    """Results of the checks of both databases."""
    return _frame(
        {
            "database": diagnostic.place,
            "check": diagnostic.name,
            "state": diagnostic.state,
            "detail": diagnostic.detail,
            "remedy": written(diagnostic.remedy, address),
        }
        for diagnostic in diagnostics
    )


def answer_frame(answers: Iterable[Answer], address: Address = DEFAULT_ADDRESS) -> pd.DataFrame:
    """Requirements of the cut-over, one line for each."""
    return _frame(
        {
            "requirement": answer.question,
            "": "yes" if answer.yes else "no",
            "detail": answer.detail,
            "remedy": written(answer.remedy, address),
        }
        for answer in answers
    )


def markdown(frame: pd.DataFrame) -> str:
    """A frame as Markdown; characters that form markup, links or HTML are escaped."""

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return printable(" ".join(text.translate(_MARKDOWN).split()))

    lines = ["| " + " | ".join(map(cell, frame.columns)) + " |"]
    lines += ["|" + " --- |" * len(frame.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), dtype=object).fillna("")


def _without_table(finding: Finding, address: Address) -> dict[str, object]:
    return {
        name: _as_text(value, address) for name, value in vars(finding).items() if name != "table"
    }


def _examples(examples: Iterable[tuple[str, str | None, str]]) -> str:
    return "; ".join(
        f"{key}: {'NULL' if old is None else old} to {new}" for key, old, new in examples
    )


def _as_text(value: object, address: Address) -> object:
    match value:
        case Message():
            return value.written(address)
        case None:
            return "NULL"
        case [[_, _, _], *_] if isinstance(value, tuple):
            return _examples(value)
        case tuple():
            return ", ".join(map(str, value))
    return value


def _reason(found: Quarantined) -> dict[str, object]:
    return {
        "table": found.table,
        "rows": f"{found.rows:,}",
        "why": f"{found.column} {found.reason}" if found.column else found.reason,
        "for example": ", ".join(found.examples),
    }


def _lossy(found: Lossy) -> dict[str, object]:
    return {
        "table": found.table,
        "column": found.column,
        "values": f"{found.values:,}",
        "for example": _examples(found.examples),
    }


def _drift(found: Drift) -> dict[str, object]:
    return {
        "table": found.table,
        "column": found.column,
        "drift": found.kind,
        "detail": found.detail,
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())
