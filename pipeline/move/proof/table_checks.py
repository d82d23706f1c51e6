"""The proof of one table: both databases are read again, and what they hold is compared.

Nothing here trusts what the load counted. The source is read without the contract: every row that
is not in quarantine must be in the target, value by value, and nothing else may be there.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.core import proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import (
    OFFENDERS,
    CheckResult,
    DigestDiffers,
    Finding,
    KeyNotEnforced,
    Lossy,
    Orphan,
    RowExtra,
    RowMissing,
    SequenceBehind,
    SequenceEnded,
    ValueDiffers,
)
from pipeline.core.proof import Proof
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import largest_integer
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes, Totals, compare, compare_singly, shown
from pipeline.move.ledger import overrides, quarantine
from pipeline.move.reading.batch_converter import ConvertedBatch, convert
from pipeline.move.reading.extract import Range, Source, Survey
from pipeline.postgres.session import LEAVE_ALONE
from pipeline.postgres.target import Target


class ProofFailed(PipelineError):
    """A blocking check failed; the table was rolled back.

    Attributes:
        checks: the outcome of every check.
    """

    def __init__(self, table: str, checks: Proof, *, triggers: str = "") -> None:
        """Name the checks that failed, and triggers of others that may be the reason."""
        why = f"; {triggers} may have changed what was written" if triggers else ""
        super().__init__(
            f"{table} was rolled back: the proof failed ({', '.join(checks.failed)}){why}",
            remedy="Look at the named rows in the check's result; the target is as it was before"
            + (f". {LEAVE_ALONE}" if triggers else ""),
        )
        self.table = table
        self.checks = checks


@dataclass
class Compared:
    """What a comparison of both sides found.

    Attributes:
        totals: rows and digests of both sides.
        missing: how many rows only the source has.
        extra: how many rows only the target has.
        differing: how many values differ, by column.
        rows: offending rows, named up to a limit.
        values: offending values, named up to a limit.
        foreign_keys: the check of that name, if it was made along the way.
    """

    totals: Totals = field(default_factory=Totals)
    missing: int = 0
    extra: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    rows: list[Finding] = field(default_factory=list)
    values: list[Finding] = field(default_factory=list)
    foreign_keys: CheckResult | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.differing)


def examine(
    target: Target,
    mapping: TableMapping,
    survey: Survey,
    batches: Iterable[ConvertedBatch],
    *,
    on_changes: Callable[[Changes], None],
    keys_only: Container[Range] = (),
    kept: Sequence[Any] = (),
    among: Sequence[Any] | None = None,
) -> Compared:
    """Compare both sides, tile by tile, and count and name what differs.

    Args:
        target: the session.
        mapping: the table.
        survey: of the rows that the source gives.
        batches: those rows.
        on_changes: told what differs in each tile.
        keys_only: ranges of which only the keys are compared.
        kept: keys of rows that may differ.
        among: keys of the rows in scope, which are looked up singly; None for all rows.
    """
    found = Compared()
    totals = found.totals
    if among is None:
        compared = compare(
            target, mapping, survey.ranges, batches, totals, keys_only=keys_only, kept=kept
        )
    else:
        compared = compare_singly(target, mapping, batches, totals, among=among, kept=kept)
    for changes in compared:
        _note(mapping, changes, found)
        on_changes(changes)
    return found


def _note(mapping: TableMapping, changes: Changes, found: Compared) -> None:
    table = mapping.name
    found.missing += len(changes.missing)
    found.extra += len(changes.extra)
    room = max(0, OFFENDERS - len(found.rows))
    found.rows += [RowMissing(table, key) for key in changes.missing[:room].to_pylist()]
    room = max(0, OFFENDERS - len(found.rows))
    found.rows += [RowExtra(table, key) for key in changes.extra[:room].to_pylist()]
    for differing in changes.differing:
        column = differing.column
        found.differing[column] = found.differing.get(column, 0) + len(differing.keys)
        room = max(0, OFFENDERS - len(found.values))
        found.values += [
            ValueDiffers(table, key, column, ours, theirs)
            for key, ours, theirs in zip(
                differing.keys[:room].to_pylist(),
                secret.hidden(mapping.table, column, shown(differing.source[:room])),
                secret.hidden(mapping.table, column, shown(differing.target[:room])),
                strict=True,
            )
        ]


def as_found(
    source: Source, mapping: TableMapping, survey: Survey, *, without: set[Any]
) -> Iterator[ConvertedBatch]:
    """Every source row that is not in quarantine, judged by nobody.

    Raises:
        PipelineError: a row can neither be converted nor is it in quarantine.
    """
    for part in survey.ranges:
        try:
            raw = source.read(mapping, part, without=without)
            batch, lossy = convert(mapping, raw)
        except pa.ArrowInvalid as error:
            raise PipelineError(
                f"{mapping.name}: a row between {part.first} and {part.last} is neither movable"
                f" nor in quarantine ({error})",
                remedy="Move the table again",
            ) from error
        yield ConvertedBatch(part, batch, raw, lossy, judged=False)


def checks_of(
    source: Source,
    target: Target,
    mapping: TableMapping,
    compared: Compared,
    lossy: tuple[Lossy, ...],
    *,
    conserved: CheckResult,
    among: Sequence[Any] | None = None,
) -> tuple[CheckResult, ...]:
    """Turn what was found into the results of the checks of a table.

    Args:
        source: it knows what was mended.
        target: the session.
        mapping: the table.
        compared: what a comparison of both sides found.
        lossy: values that were changed in a way that cannot be undone.
        conserved: the check of conservation.
        among: keys of the rows in scope; None for all rows.
    """
    return (
        conserved,
        keys(compared),
        digests(mapping, compared),
        compared.foreign_keys or foreign_keys(target, mapping, among=among),
        sequences(target, mapping),
        drift(mapping),
        in_quarantine(target, mapping),
        changed(lossy),
        overrides.check(source.overrides.get(mapping.name, [])),
    )


def keys(compared: Compared) -> CheckResult:
    """Both sides hold the same keys."""
    figures = {
        "compared": compared.totals.target_rows,
        "missing": compared.missing,
        "extra": compared.extra,
    }
    return proof.KEYS.result(compared.rows, figures)


def digests(mapping: TableMapping, compared: Compared) -> CheckResult:
    """Every value that was compared is equal."""
    found = compared.totals.digests()
    # From the digest of a short secret one could find the secret by trying.
    hidden = secret.columns(mapping.table)
    unequal = tuple(
        DigestDiffers(mapping.name, column, *secret.hidden(mapping.table, column, (ours, theirs)))
        for column, (ours, theirs) in found.items()
        if ours != theirs
    )
    return proof.DIGESTS.result(
        (*compared.values, *unequal),
        {
            "values_compared": compared.totals.values,
            "values_differing": sum(compared.differing.values()),
            "digests": {c: theirs for c, (_, theirs) in found.items() if c not in hidden},
        },
    )


def foreign_keys(
    target: Target, mapping: TableMapping, *, among: Sequence[Any] | None = None
) -> CheckResult:
    """No row without its parent, counted row by row, and every constraint is valid.

    Args:
        target: the session.
        mapping: the table.
        among: keys of the rows that are looked at; None for all.
    """
    orphans: list[Finding] = []
    figures: dict[str, Any] = {}
    key = quoted(mapping.key.name)
    for column, parent in mapping.parents:
        name, parent_key = quoted(column.name), RowKey.of(parent).sql
        lonely = (
            f" FROM {quoted(mapping.name)} AS r WHERE {name} IS NOT NULL AND NOT EXISTS"
            f" (SELECT FROM {quoted(parent.name)} AS p WHERE p.{parent_key} = r.{name})"
        )
        parameters: tuple[object, ...] = ()
        if among is not None:
            lonely += f" AND r.{key} = ANY($1)" if among else " AND false"
            parameters = (list(among),) if among else ()
        count = target.value(f"SELECT count(*){lonely}", parameters)
        figures[f"orphans by {column.name}"] = count
        if count:
            named = target.rows(
                f"SELECT r.{key}{lonely} ORDER BY r.{key} LIMIT {OFFENDERS}", parameters
            )
            orphans += [Orphan(mapping.name, k, column.name, parent.name) for (k,) in named]
    valid = {
        name
        for (name,) in target.rows(
            "SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND convalidated"
            " AND conrelid = to_regclass($1)",
            (f"public.{quoted(mapping.name)}",),
        )
    }
    declared = {str(foreign.name) for foreign in mapping.table.foreign_key_constraints}
    figures["valid constraints"] = len(valid)
    orphans += [KeyNotEnforced(mapping.name, name) for name in sorted(declared - valid)]
    return proof.FOREIGN_KEYS.result(orphans, figures)


def sequences(target: Target, mapping: TableMapping) -> CheckResult:
    """The next id is larger than every id."""
    name = sequence_of(target, mapping)
    if name is None:
        return proof.SEQUENCES.result(figures={"sequence": "none"})
    ((upcoming, last),) = target.rows(
        "SELECT CASE WHEN is_called THEN last_value + seqincrement ELSE last_value END, seqmax"
        f" FROM {name}, pg_sequence WHERE seqrelid = to_regclass($1)",
        (name,),
    )
    largest = target.value(
        f"SELECT coalesce(max({quoted(mapping.key.name)}), 0)::bigint FROM {quoted(mapping.name)}"
    )
    findings: list[Finding] = []
    if upcoming <= largest:
        findings.append(SequenceBehind(mapping.name, name, upcoming, largest))
    # Where the type itself has no further number, no sequence can help.
    if upcoming > last and last < largest_integer(mapping.key.type):
        findings.append(SequenceEnded(mapping.name, name))
    return proof.SEQUENCES.result(findings, {"next": upcoming, "largest": largest})


def sequence_of(target: Target, mapping: TableMapping) -> str | None:
    """The sequence that gives out ids, quoted, or None: of an identity, or of a default."""
    table, key = f"public.{quoted(mapping.name)}", mapping.key.name
    found = target.rows(
        "SELECT coalesce(pg_get_serial_sequence($1, $2), (SELECT format('%I.%I', n.nspname,"
        " c.relname) FROM pg_attribute a JOIN pg_attrdef f ON (f.adrelid, f.adnum) ="
        " (a.attrelid, a.attnum) JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass"
        " AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass JOIN pg_class c"
        " ON c.oid = d.refobjid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE a.attrelid = to_regclass($1) AND a.attname = $2 LIMIT 1))",
        (table, key),
    )
    return None if found[0][0] is None else str(found[0][0])


def drift(mapping: TableMapping) -> CheckResult:
    """Source and declared schema agree."""
    return proof.DRIFT.result(mapping.drift)


def in_quarantine(target: Target, mapping: TableMapping) -> CheckResult:
    """No row waits in quarantine."""
    reasons = quarantine.summary(target, mapping.name)
    rows = len(quarantine.row_ids(target, mapping.name))
    return proof.QUARANTINE.result(reasons, {"rows": rows}, passed=not rows)


def changed(lossy: tuple[Lossy, ...]) -> CheckResult:
    """No value was changed in a way that cannot be undone."""
    values = sum(found.values for found in lossy)
    return proof.CONVERSIONS.result(lossy, {"values": values})


def conversions_kept(target: Target, mapping: TableMapping) -> CheckResult:
    """The same of a table that has moved, as the ledger tells."""
    return changed(conversions.summary(target, mapping))
