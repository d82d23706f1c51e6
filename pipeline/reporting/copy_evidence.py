"""A copy and its plan as JSON, and the evidence of a copy: an HTML file, and the JSON beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import LeftOut
from pipeline.core import private
from pipeline.core.findings import describe
from pipeline.mapping.casts.types import type_name
from pipeline.reporting import copies, evidence_page


def record(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write the evidence of a copy, given as ``as_json`` returns it.

    Returns:
        The HTML file; ``evidence.json`` lies beside it.

    Raises:
        FilesError: the files cannot be written.
    """
    private.folder(folder)
    private.replace_text(
        folder / "evidence.json", json.dumps(data, indent=2, ensure_ascii=False, default=str)
    )
    html = folder / "evidence.html"
    private.replace_text(html, evidence_page.render(data, template="copy.html.j2"))
    return html


def plan_as_json(plan: CopyPlan) -> dict[str, Any]:
    """A plan for programs."""
    return {
        "source": plan.source.source,
        "tables": _census(plan),
        "ddl": [line for line in copies.ddl(plan) if not line.startswith("--")],
        "not_carried": [_left(left) for left in plan.all_left],
        "left_behind": plan.behind,
    }


def as_json(result: CopyResult, plan: CopyPlan) -> dict[str, Any]:
    """A result for programs."""
    return {
        "run_id": result.run_id,
        "ended": datetime.now(timezone.utc).isoformat(),  # noqa: UP017
        "source": result.source,
        "target": result.target,
        "proven": result.proven,
        "seconds": round(result.seconds, 3),
        "tables": [_table(table) for table in result.tables],
        "not_reached": list(result.missing),
        "views": list(result.views),
        "not_carried": [_left(left) for left in result.all_left],
        "left_behind": result.behind,
        "census": _census(plan),
    }


def _table(result: TableResult) -> dict[str, Any]:
    found = asdict(result)
    found["proven"] = result.proven
    found["reasons"] = [asdict(reason) for reason in result.reasons]
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
