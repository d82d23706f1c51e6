"""The ledger of a copy: what it wrote, with which rules, and the rows that stayed behind."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.target.extras import Extra
from pipeline.copy.target.layout import CopiedTable
from pipeline.mapping.contract import Reason, Rejected, stored
from pipeline.move.ledger import evidence, quarantine, watermarks
from pipeline.move.ledger.evidence import Evidence
from pipeline.move.ledger.watermarks import Watermark
from pipeline.postgres.target import Target

COPY = "copy "
"""The beginning of the rules of a table that a copy wrote."""


def rules_of(table: CopiedTable, extras: Sequence[Extra]) -> str:
    """A digest of the columns and of everything that a table should have."""
    parts = [table.ddl(), *(each.statement for each in extras if each.kind != "identity")]
    return COPY + hashlib.sha256(repr(parts).encode()).hexdigest()


def is_copy(rules: str) -> bool:
    """Whether a copy wrote a table with these rules."""
    return rules.startswith(COPY)


def write(
    target: Target,
    table: CopiedTable,
    *,
    source: PreparedSource,
    rejected: Mapping[int, Reason | None],
    digests: Mapping[str, str],
    rules: str,
    run_id: str,
) -> None:
    """Record a proven table in its transaction, except the originals of lossy conversions.

    Args:
        rejected: row ids of rows that stayed behind, with a reason that no rule gives.
        digests: of the target's columns.
    """
    rows = table.rows - len(rejected)
    if rejected:
        found = rejected_rows(source, table, rejected)
        quarantine.replace(target, table.label, found, run_id=run_id)
    else:
        quarantine.clear(target, table.label)
    mark = Watermark(None, rows, rules, source.fingerprint, None)
    watermarks.write(target, table.label, mark, run_id=run_id)
    proven = Evidence(table.rows, rows, len(rejected), digests)
    evidence.write(target, table.label, proven, run_id=run_id)


def rejected_rows(
    source: PreparedSource, table: CopiedTable, rejected: Mapping[int, Reason | None]
) -> Iterator[Rejected]:
    """Rejected rows with all their values and reasons."""
    mapping, row_id = table.mapping, source.row_id(table.source)
    outputs = []
    for column in mapping.columns:
        name = mapping.in_source(column.name)
        outputs += [f"typeof({name})", name]
    rules = table.contract.rules
    outputs += [f"({rule.violated}) IS TRUE" for _, rule in rules]
    sql = (
        f"SELECT {row_id}, {', '.join(outputs)} FROM {source.rows_of(table.source)}"
        f" WHERE {row_id} = ?"
    )
    with source.sqlite() as connection:
        for number in sorted(rejected):
            (_, *values), known = connection.execute(sql, (number,)).fetchone(), rejected[number]
            columns = mapping.columns
            kept = tuple(
                stored(column.name, values[2 * at].decode(), values[2 * at + 1])
                for at, column in enumerate(columns)
            )
            broken = zip(rules, values[2 * len(columns) :], strict=True)
            reasons = [Reason(r.code, name, r.message) for (name, r), wrong in broken if wrong]
            if known is not None and not reasons:
                reasons.append(known)
            yield Rejected(str(number), None, tuple(reasons), kept)
