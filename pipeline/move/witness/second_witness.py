"""The check of the second witness, after a move or for committed tables.

This module passes the engine's tables, sessions and sources to the witness and turns its findings
into a check. A move checks a random part of each table, or all of it. For a part, the digests of
the batches that the engine wrote are compared as well.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.core import proof
from pipeline.core.findings import CheckResult, DigestDiffers, Finding, RowExtra, RowMissing
from pipeline.core.findings import ValueDiffers as Differs
from pipeline.mapping import secret
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import quarantine
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Survey
from pipeline.move.witness.column_digests import ColumnDigests
from pipeline.move.witness.comparison import (
    Compared,
    Difference,
    Expected,
    compare,
    compare_all,
    expected,
)
from pipeline.move.witness.source import (
    SAMPLE_BYTES,
    SAMPLE_ROWS,
    Chunk,
    chosen,
    read_chunks,
    sample,
)
from pipeline.move.witness.table import Table
from pipeline.postgres.target import Target

_RANGE_ROWS = 16 * SAMPLE_ROWS


@dataclass
class Witness:
    """A sample of one table's source, to be compared with the target.

    Attributes:
        target: the session that sees the rows to be proven.
        table: the table as defined for the witness.
        seed: chose the sample; None for all rows.
        engine: the engine's digests of the same parts.
    """

    target: Target
    mapping: TableMapping
    table: Table
    seed: int | None
    samples: list[Expected]
    engine: ColumnDigests = field(init=False)

    def __post_init__(self) -> None:
        """Prepare the engine's digests of the same parts."""
        parts = [each.chunk.part for each in self.samples]
        self.engine = ColumnDigests(self.mapping.key.name, parts, self.table.kept)

    def check(self) -> CheckResult:
        """Compare the sample with the target."""
        compared = list(compare(self.target.rows, self.table, self.samples))
        unequal = list(_unequal(self.mapping, self.engine, compared))
        return _result(self.mapping, compared, unequal, seed=self.seed)


def take_sample(
    source: SourceView,
    target: Target,
    mapping: TableMapping,
    *,
    survey: Survey,
    keys: Sequence[Any] | None = None,
    kept: Sequence[Any] = (),
    seed: str,
) -> Witness:
    """Read a random part of a table's source.

    Args:
        target: the session; quarantine is already updated.
        survey: provides the key ranges to choose from.
        keys: keys of the rows in scope; None for all.
        kept: keys of rows that keep the target's version.
        seed: chooses the part; the same seed chooses the same part of the same source.
    """
    table = witness_table(source, mapping, kept=kept, quarantined=_quarantined(target, mapping))
    number = zlib.crc32(f"{seed} {mapping.name}".encode())
    cuts = [(part.first, part.rows) for part in survey.ranges]
    with source.sqlite() as connection:
        found = (
            sample(table, connection, cuts=cuts, seed=number)
            if keys is None
            else chosen(table, connection, keys, most=SAMPLE_ROWS, seed=number)
        )
        samples, size = list[Expected](), 0
        for chunk in found:
            samples.append(expected(target.rows, table, chunk))
            size += chunk.bytes
            if size >= SAMPLE_BYTES:
                break
    return Witness(target, mapping, table, number, samples)


def check_all(
    source: SourceView,
    target: Target,
    mapping: TableMapping,
    *,
    keys: Sequence[Any] | None = None,
    kept: Sequence[Any] = (),
) -> CheckResult:
    """Compare every row, or every row with one of these keys."""
    table = witness_table(source, mapping, kept=kept, quarantined=_quarantined(target, mapping))
    with source.sqlite() as connection:
        found: Iterator[Chunk] = (
            read_chunks(table, connection, count=_RANGE_ROWS, size=SAMPLE_BYTES)
            if keys is None
            else chosen(table, connection, keys, most=len(keys), seed=0)
        )
        given = (expected(target.rows, table, chunk) for chunk in found)
        compared = list(compare_all(target.rows, table, given))
    return _result(mapping, compared, [], seed=None)


def nothing() -> CheckResult:
    """The check of a table of which no rows were compared."""
    return proof.WITNESS.result(figures={"rows": 0, "values": 0})


def witness_table(
    source: SourceView,
    mapping: TableMapping,
    *,
    kept: Sequence[Any] = (),
    quarantined: frozenset[str] = frozenset(),
) -> Table:
    """The table as defined for the witness."""
    policies = mapping.policies
    # If both forms of a JSON string are accepted, only the engine's comparison can check them.
    either = mapping.double_encoded if policies.double_encoded_json == "either" else frozenset()
    corrected = frozenset(found.row_id for found in source.overrides.get(mapping.name, ()))
    return Table(
        mapping.name,
        mapping.key.name,
        tuple((each.name, each.type) for each in mapping.columns if each.name not in either),
        source.row_id_column(mapping),
        quarantined=quarantined,
        kept=tuple(kept),
        # For a live file, corrected rows are in a private file.
        corrected=corrected if source.schema != "main" else (),
        prefix=f"{source.schema}.",
        corrections="main.",
        zone=policies.naive_zone,
        unwrap=mapping.double_encoded,
        fills=_fills(mapping),
        source_names=mapping.source_names,
    )


def _quarantined(target: Target, mapping: TableMapping) -> frozenset[str]:
    return frozenset(quarantine.row_ids(target, mapping.name))


def _fills(mapping: TableMapping) -> dict[str, Any]:
    given = mapping.policies.forbidden_nulls
    found = {
        column.name: given[f"{mapping.name}.{column.name}"]
        for column in mapping.columns
        if not column.nullable and f"{mapping.name}.{column.name}" in given
    }
    return {name: _filled(mapping.table.columns[name], value) for name, value in found.items()}


def _filled(column: sa.Column[Any], value: Any) -> Any:
    if isinstance(column.type, JSONB) and not isinstance(value, str):
        value = json.dumps(value)
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def _result(
    mapping: TableMapping,
    compared: Sequence[Compared],
    unequal: Sequence[Finding],
    *,
    seed: int | None,
) -> CheckResult:
    rows = sum(each.rows for each in compared)
    differences = [found for each in compared for found in each.differences]
    figures: dict[str, Any] = {"rows": rows, "values": rows * len(mapping.columns)}
    if seed is not None:
        figures["seed"] = str(seed)
    findings = (*(_finding(mapping, found) for found in differences), *unequal)
    return proof.WITNESS.result(findings, figures)


def _finding(mapping: TableMapping, found: Difference) -> Finding:
    if found.column is None:
        return (RowMissing if found.source else RowExtra)(mapping.name, found.key)
    source, target = secret.hidden(mapping.table, found.column, (found.source, found.target))
    return Differs(mapping.name, found.key, found.column, source, target)


def _unequal(
    mapping: TableMapping, engine: ColumnDigests, compared: Sequence[Compared]
) -> Iterator[Finding]:
    """Columns for which the engine's digest differs from the target's."""
    for number, each in enumerate(compared):
        if engine.rows[number] != each.rows or each.differences:
            # The engine did not read all rows of this part, or its differences are already named.
            continue
        for column, stored in zip(mapping.columns, each.target, strict=True):
            digest = engine.digests[number].get(column.name)
            if digest is not None and digest.hexdigest() != stored:
                pair = secret.hidden(mapping.table, column.name, (digest.hexdigest(), stored))
                yield DigestDiffers(mapping.name, column.name, *pair)


def add(witness: Witness | None, batch: pa.RecordBatch) -> None:
    """Add a batch of the engine to the digests of a witness."""
    if witness is not None:
        witness.engine.add(batch)
