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
from pipeline.mapping.landing import Landing
from pipeline.move.ledger import quarantine
from pipeline.move.reading.extract import Source, Survey
from pipeline.move.witness.column_digests import ColumnDigests
from pipeline.move.witness.examine import (
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
        landing: the table.
        table: the same, as the witness knows it.
        seed: chose what was seen; None where everything was.
        seen: what the target has to hold.
        engine: the engine's digests of the same parts.
    """

    target: Target
    landing: Landing
    table: Table
    seed: int | None
    seen: list[Expected]
    engine: ColumnDigests = field(init=False)

    def __post_init__(self) -> None:
        """Let the engine hash the same parts."""
        parts = [each.stretch.part for each in self.seen]
        self.engine = ColumnDigests(self.landing.key.name, parts, self.table.kept)

    def check(self) -> CheckResult:
        """Compare what was seen with what the target holds now."""
        compared = list(compare(self.target.rows, self.table, self.seen))
        unequal = list(_unequal(self.landing, self.engine, compared))
        return _result(self.landing, compared, unequal, seed=self.seed)


def look(
    source: Source,
    target: Target,
    landing: Landing,
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
        landing: the table.
        survey: says where rows lie; which of them are seen is left to chance.
        keys: the rows that are looked at; None for all.
        kept: keys of rows whose target version stays on purpose.
        seed: chooses the part; the same seed chooses the same part of the same source.
    """
    table = table_of(source, landing, kept=kept, quarantined=_quarantined(target, landing))
    number = zlib.crc32(f"{seed} {landing.name}".encode())
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
    return Witness(target, landing, table, number, seen)


def check_all(
    source: Source,
    target: Target,
    landing: Landing,
    *,
    keys: Sequence[Any] | None = None,
    kept: Sequence[Any] = (),
) -> CheckResult:
    """Compare every row, or every row with one of these keys."""
    table = table_of(source, landing, kept=kept, quarantined=_quarantined(target, landing))
    with source.sqlite() as connection:
        found: Iterator[Stretch] = (
            stretches(table, connection, count=_RANGE_ROWS, size=SAMPLE_BYTES)
            if keys is None
            else chosen(table, connection, keys, most=len(keys), seed=0)
        )
        given = (expected(target.rows, table, stretch) for stretch in found)
        compared = list(compare_all(target.rows, table, given))
    return _result(landing, compared, [], seed=None)


def nothing() -> CheckResult:
    """The check of a table of which nothing was looked at."""
    return proof.WITNESS.result(figures={"rows": 0, "values": 0})


def table_of(
    source: Source,
    landing: Landing,
    *,
    kept: Sequence[Any] = (),
    quarantined: frozenset[str] = frozenset(),
) -> Table:
    """A table as the witness knows it."""
    policies = landing.policies
    # Where either form of a JSON string is right, only the comparison can tell.
    either = landing.doubled if policies.doubled_json == "either" else frozenset()
    corrected = frozenset(found.handle for found in source.mended.get(landing.name, ()))
    return Table(
        landing.name,
        landing.key.name,
        tuple((each.name, each.type) for each in landing.columns if each.name not in either),
        source.handle_column(landing),
        quarantined=quarantined,
        kept=tuple(kept),
        # Where the live file is read, what was corrected lies in a private file beside it.
        corrected=corrected if source.schema != "main" else (),
        prefix=source.everything,
        corrections="main.",
        zone=policies.naive_zone,
        unwrap=landing.doubled,
        fills=_fills(landing),
    )


def _quarantined(target: Target, landing: Landing) -> frozenset[str]:
    return frozenset(quarantine.handles(target, landing.name))


def _fills(landing: Landing) -> dict[str, Any]:
    given = landing.policies.forbidden_nulls
    found = {
        column.name: given[f"{landing.name}.{column.name}"]
        for column in landing.columns
        if not column.nullable and f"{landing.name}.{column.name}" in given
    }
    return {name: _filled(landing.table.columns[name], value) for name, value in found.items()}


def _filled(column: sa.Column[Any], value: Any) -> Any:
    if isinstance(column.type, JSONB) and not isinstance(value, str):
        value = json.dumps(value)
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def _result(
    landing: Landing,
    compared: Sequence[Compared],
    unequal: Sequence[Finding],
    *,
    seed: int | None,
) -> CheckResult:
    rows = sum(each.rows for each in compared)
    differences = [found for each in compared for found in each.differences]
    figures: dict[str, Any] = {"rows": rows, "values": rows * len(landing.columns)}
    if seed is not None:
        figures["seed"] = str(seed)
    findings = (*(_finding(landing, found) for found in differences), *unequal)
    return proof.WITNESS.result(findings, figures)


def _finding(landing: Landing, found: Difference) -> Finding:
    if found.column is None:
        return (RowMissing if found.source else RowExtra)(landing.name, found.key)
    source, target = secret.hidden(landing.table, found.column, (found.source, found.target))
    return Differs(landing.name, found.key, found.column, source, target)


def _unequal(
    landing: Landing, engine: ColumnDigests, compared: Sequence[Compared]
) -> Iterator[Finding]:
    """Columns of which the engine wrote something else than the target stores."""
    for at, each in enumerate(compared):
        if engine.rows[at] != each.rows or each.differences:
            # What the engine did not read again it cannot speak of, and what differs is named.
            continue
        for column, theirs in zip(landing.columns, each.target, strict=True):
            ours = engine.digests[at].get(column.name)
            if ours is not None and ours.hexdigest() != theirs:
                pair = secret.hidden(landing.table, column.name, (ours.hexdigest(), theirs))
                yield DigestDiffers(landing.name, column.name, *pair)


def add(witness: Witness | None, batch: pa.RecordBatch) -> None:
    """Let the engine hash the rows of a batch that the witness saw, too."""
    if witness is not None:
        witness.engine.add(batch)
