"""The second witness at the end of a move, and of what is committed: one more check.

Here the engine's tables, sessions and sources become what the witness knows, and what it found
becomes a check. A move shows it a random part of each table, or all of it. Of what is shown
in part, the engine's own digests, from the batches that it wrote, are compared as well.
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
from pipeline.move.reading.extract import Source, Survey
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
    Stretch,
    chosen,
    sample,
    stretches,
)
from pipeline.move.witness.table import Table
from pipeline.postgres.target import Target

_RANGE_ROWS = 16 * SAMPLE_ROWS


@dataclass
class Witness:
    """What a witness saw of one table's source, until the target is compared with it.

    Attributes:
        target: the session that sees what is to be proven.
        mapping: the table.
        table: the same, as the witness knows it.
        seed: chose what was seen; None where everything was.
        samples: what the target has to hold.
        engine: the engine's digests of the same parts.
    """

    target: Target
    mapping: TableMapping
    table: Table
    seed: int | None
    samples: list[Expected]
    engine: ColumnDigests = field(init=False)

    def __post_init__(self) -> None:
        """Let the engine hash the same parts."""
        parts = [each.stretch.part for each in self.samples]
        self.engine = ColumnDigests(self.mapping.key.name, parts, self.table.kept)

    def check(self) -> CheckResult:
        """Compare what was seen with what the target holds now."""
        compared = list(compare(self.target.rows, self.table, self.samples))
        unequal = list(_unequal(self.mapping, self.engine, compared))
        return _result(self.mapping, compared, unequal, seed=self.seed)


def take_sample(
    source: Source,
    target: Target,
    mapping: TableMapping,
    *,
    survey: Survey,
    keys: Sequence[Any] | None = None,
    kept: Sequence[Any] = (),
    seed: str,
) -> Witness:
    """See a random part of a table's source.

    Args:
        source: the private copy, or the live file.
        target: the session; its quarantine is what the move leaves.
        mapping: the table.
        survey: says where rows lie; which of them are seen is left to chance.
        keys: the rows that are looked at; None for all.
        kept: keys of rows whose target version stays on purpose.
        seed: chooses the part; the same seed chooses the same part of the same source.
    """
    table = table_of(source, mapping, kept=kept, quarantined=_quarantined(target, mapping))
    number = zlib.crc32(f"{seed} {mapping.name}".encode())
    cuts = [(part.first, part.rows) for part in survey.ranges]
    with source.sqlite() as connection:
        found = (
            sample(table, connection, cuts=cuts, seed=number)
            if keys is None
            else chosen(table, connection, keys, most=SAMPLE_ROWS, seed=number)
        )
        seen, size = list[Expected](), 0
        for stretch in found:
            seen.append(expected(target.rows, table, stretch))
            size += stretch.bytes
            if size >= SAMPLE_BYTES:
                break
    return Witness(target, mapping, table, number, seen)


def check_all(
    source: Source,
    target: Target,
    mapping: TableMapping,
    *,
    keys: Sequence[Any] | None = None,
    kept: Sequence[Any] = (),
) -> CheckResult:
    """Compare every row, or every row with one of these keys."""
    table = table_of(source, mapping, kept=kept, quarantined=_quarantined(target, mapping))
    with source.sqlite() as connection:
        found: Iterator[Stretch] = (
            stretches(table, connection, count=_RANGE_ROWS, size=SAMPLE_BYTES)
            if keys is None
            else chosen(table, connection, keys, most=len(keys), seed=0)
        )
        given = (expected(target.rows, table, stretch) for stretch in found)
        compared = list(compare_all(target.rows, table, given))
    return _result(mapping, compared, [], seed=None)


def nothing() -> CheckResult:
    """The check of a table of which nothing was looked at."""
    return proof.WITNESS.result(figures={"rows": 0, "values": 0})


def table_of(
    source: Source,
    mapping: TableMapping,
    *,
    kept: Sequence[Any] = (),
    quarantined: frozenset[str] = frozenset(),
) -> Table:
    """A table as the witness knows it."""
    policies = mapping.policies
    # Where either form of a JSON string is right, only the comparison can tell.
    either = mapping.double_encoded if policies.double_encoded_json == "either" else frozenset()
    corrected = frozenset(found.row_id for found in source.overrides.get(mapping.name, ()))
    return Table(
        mapping.name,
        mapping.key.name,
        tuple((each.name, each.type) for each in mapping.columns if each.name not in either),
        source.row_id_column(mapping),
        quarantined=quarantined,
        kept=tuple(kept),
        # Where the live file is read, what was corrected lies in a private file beside it.
        corrected=corrected if source.schema != "main" else (),
        prefix=source.everything,
        corrections="main.",
        zone=policies.naive_zone,
        unwrap=mapping.double_encoded,
        fills=_fills(mapping),
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
    """Columns of which the engine wrote something else than the target stores."""
    for at, each in enumerate(compared):
        if engine.rows[at] != each.rows or each.differences:
            # What the engine did not read again it cannot speak of, and what differs is named.
            continue
        for column, theirs in zip(mapping.columns, each.target, strict=True):
            ours = engine.digests[at].get(column.name)
            if ours is not None and ours.hexdigest() != theirs:
                pair = secret.hidden(mapping.table, column.name, (ours.hexdigest(), theirs))
                yield DigestDiffers(mapping.name, column.name, *pair)


def add(witness: Witness | None, batch: pa.RecordBatch) -> None:
    """Let the engine hash the rows of a batch that the witness saw, too."""
    if witness is not None:
        witness.engine.add(batch)
