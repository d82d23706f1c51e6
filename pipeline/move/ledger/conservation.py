"""The conservation check: every row of the source was moved, quarantined or excluded."""

from collections.abc import Sequence
from typing import Any

from pipeline.core import proof
from pipeline.core.findings import CheckResult, NotConserved
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import quarantine
from pipeline.postgres.target import Target


def check(target: Target, mapping: TableMapping, source_rows: int, moved: int) -> CheckResult:
    """Check source = moved + quarantined, with the quarantined rows counted in the ledger."""
    quarantined = len(quarantine.row_ids(target, mapping.name))
    return result(mapping, source_rows, moved, quarantined=quarantined)


def result(
    mapping: TableMapping,
    source_rows: int,
    moved: int,
    *,
    quarantined: int,
    excluded: int | None = None,
) -> CheckResult:
    """Check the figures; ``excluded`` is given only if a move may exclude rows."""
    passed = source_rows == moved + quarantined + (excluded or 0)
    figures = {"source_rows": source_rows, "moved": moved, "quarantined": quarantined}
    finding = NotConserved(mapping.name, source_rows, moved, quarantined, excluded or 0)
    return proof.CONSERVATION.result(
        () if passed else (finding,),
        figures if excluded is None else figures | {"excluded": excluded},
    )


def existing(target: Target, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
    """The given keys that exist in the target."""
    if not keys:
        return []
    name = quoted(mapping.key.name)
    found = target.rows(
        f"SELECT {name} FROM {quoted(mapping.name)} WHERE {name} = ANY($1)", (list(keys),)
    )
    return [key for (key,) in found]
