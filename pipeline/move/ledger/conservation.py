"""The check of conservation: every row of the source moved, is in quarantine, or was left out."""

from collections.abc import Sequence
from typing import Any

from pipeline.core import proof
from pipeline.core.findings import CheckResult, NotConserved
from pipeline.core.quoting import quoted
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.target import Target


def check(target: Target, mapping: TableMapping, ours: int, theirs: int) -> CheckResult:
    """Source = moved + quarantined: the source's rows, the target's, the ledger's."""
    aside = target.value(
        "SELECT count(*) FROM migration.quarantine WHERE table_name = $1", (mapping.name,)
    )
    return result(mapping, ours, theirs, quarantined=aside)


def result(
    mapping: TableMapping, ours: int, theirs: int, *, quarantined: int, excluded: int | None = None
) -> CheckResult:
    """The check of conservation, from its figures; ``excluded`` only where rows are left out."""
    left_out = excluded or 0
    passed = ours == theirs + quarantined + left_out
    figures = {"source_rows": ours, "moved": theirs, "quarantined": quarantined}
    return proof.CONSERVATION.result(
        () if passed else (NotConserved(mapping.name, ours, theirs, quarantined, left_out),),
        figures if excluded is None else figures | {"excluded": excluded},
    )


def existing(target: Target, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
    """Those of some keys that the target has."""
    if not keys:
        return []
    name = quoted(mapping.key.name)
    found = target.rows(
        f"SELECT {name} FROM {quoted(mapping.name)} WHERE {name} = ANY($1)", (list(keys),)
    )
    return [key for (key,) in found]
