"""Standing checks: compare the target with source, ledger and declaration, without a move.

Both databases are read again, each in one view; nothing is written. For a table larger than the
sample, all keys are compared, and the values of a random part chosen by a seed.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from pipeline.core import proof
from pipeline.core.errors import ShapeError, TargetError, Transient
from pipeline.core.findings import (
    OFFENDERS,
    CheckResult,
    Finding,
    NotComparable,
    OriginalMissing,
    PartiallyMoved,
    QuarantineOutdated,
    Unaccounted,
)
from pipeline.core.progress import OnProgress
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.compare.comparison import AllRows
from pipeline.move.context.move_context import counter
from pipeline.move.ledger import conservation, overrides, quarantine, watermarks
from pipeline.move.proof import constraints, table_checks
from pipeline.move.reading.batch_converter import BatchConverter, ConvertedBatch
from pipeline.move.reading.prepare import Prepared
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Range, Survey
from pipeline.move.witness import second_witness
from pipeline.postgres import access, catalog, schema
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.driver.statements import Question, single
from pipeline.postgres.target import Target

Make = Callable[[Target, TableMapping], CheckResult]
_SINGLY: dict[str, Make] = {
    proof.FOREIGN_KEYS.name: constraints.foreign_keys,
    proof.QUARANTINE.name: table_checks.in_quarantine,
    proof.CONVERSIONS.name: table_checks.conversions_kept,
}
_CHUNK = 500
_WATERMARKS_QUESTION = Question(
    "SELECT to_regclass('migration.watermarks') IS NOT NULL AS found",
    (),
    single,
)
NAMES = proof.OF_A_VERIFICATION


@dataclass(frozen=True)
class Sample:
    """How much of a large table is compared value by value.

    Attributes:
        bytes: the sample size for larger tables.
        seed: chooses the sample; the same seed chooses the same ranges of the same source.
        witness_all: the second witness checks every row, not a sample.
    """

    bytes: int
    seed: int
    witness_all: bool = False


def verify_table(
    prepared: Prepared,
    *,
    source: SourceView,
    target: Target,
    sample: Sample,
    only: Collection[str] = NAMES,
    on_progress: OnProgress = lambda _: None,
) -> tuple[CheckResult, ...]:
    """Check one committed table.

    Args:
        target: a session within a transaction.

    Raises:
        ShapeError: the target has no such table.
        SourceError: the snapshot cannot be read.
        TargetError: the target does not answer.
    """
    mapping = prepared.mapping
    with target.prefetched(*_questions(mapping), risky=True):
        if not target.answer(_moved_question(mapping)):
            raise ShapeError(
                f"{mapping.name} has never been moved into the target", remedy="Move it first"
            )
        return _checks(prepared, source, target, sample, only, on_progress)


def _moved_question(mapping: TableMapping) -> Question[bool]:
    return Question(
        "SELECT to_regclass('migration.quarantine') IS NOT NULL"
        " AND to_regclass('public.' || quote_ident($1)) IS NOT NULL AS found",
        (mapping.name,),
        single,
    )


def _questions(mapping: TableMapping) -> Iterator[Question[Any]]:
    """What most checks ask, apart from the comparison and the witness."""
    yield _moved_question(mapping)
    yield schema.state_question(mapping.name)
    yield schema.count_question(mapping.name)
    yield _WATERMARKS_QUESTION
    yield watermarks.question(mapping.name)
    yield quarantine.row_ids_question(mapping.name)
    yield quarantine.summary_question(mapping.name)
    yield conversions.summary_question(mapping)
    yield constraints.sequence_question(mapping)
    yield from constraints.foreign_key_questions(mapping)
    yield from schema_questions(mapping)


def _checks(
    prepared: Prepared,
    source: SourceView,
    target: Target,
    sample: Sample,
    only: Collection[str],
    on_progress: OnProgress,
) -> tuple[CheckResult, ...]:
    mapping = prepared.mapping
    checks: dict[str, CheckResult] = {}
    if set(proof.BY_COMPARISON) & set(only):
        try:
            schema.check_shape(mapping, schema.inspect(target, mapping.name, rows=False))
            # Roll back the collected originals.
            with target.rolled_back():
                compared = list(_compared(prepared, source, target, sample, on_progress))
        except Transient:
            raise
        except (TargetError, DataFault) as error:
            compared = [_impossible(name, mapping, error) for name in proof.BY_COMPARISON]
        checks |= {check.name: check for check in compared}
    assigned = source.last_assigned(mapping.table.name)
    singly: dict[str, Make] = {
        proof.WITNESS.name: lambda *_: _witnessed(prepared, source, target, sample),
        proof.SCHEMA.name: _schema,
        proof.DRIFT.name: lambda _, mapping: table_checks.drift(mapping),
        proof.SEQUENCES.name: partial(constraints.sequences, assigned=assigned),
        **_SINGLY,
    }
    for name, make in singly.items():
        if name in only:
            checks[name] = _made(name, make, target, mapping)
    if proof.OVERRIDES.name in only:
        checks[proof.OVERRIDES.name] = overrides.check(source.overrides.get(mapping.name, []))
    return tuple(checks[name] for name in NAMES if name in only)


def _witnessed(
    prepared: Prepared, source: SourceView, target: Target, sample: Sample
) -> CheckResult:
    """The check of the second witness."""
    mapping, survey, seed = prepared.mapping, prepared.survey, str(sample.seed)
    if sample.witness_all:
        found = second_witness.check_all(source, target, mapping)
    else:
        found = second_witness.take_sample(
            source, target, mapping, survey=survey, seed=seed
        ).check()
    return _led_by(_only_a_part(target, mapping), found)


def schema_questions(mapping: TableMapping) -> tuple[Question[Any], ...]:
    """The questions of ``check_schema`` about the existing table."""
    return *catalog.questions(mapping), *access.questions(mapping)


def check_schema(target: Target, mapping: TableMapping) -> CheckResult:
    """The check ``schema`` alone, also where it cannot be made.

    Raises:
        Transient: the target does not answer now.
    """
    return _made(proof.SCHEMA.name, _schema, target, mapping)


def _made(name: str, make: Make, target: Target, mapping: TableMapping) -> CheckResult:
    """Make one check; what makes it impossible fails it and does not stop the others."""
    try:
        with target.rolled_back():
            return make(target, mapping)
    except Transient:
        raise
    except (TargetError, DataFault) as error:
        return _impossible(name, mapping, error)


def _schema(target: Target, mapping: TableMapping) -> CheckResult:
    """Compare a committed table with its declaration, rights and policies included.

    Args:
        target: a session within a transaction; it may act as the roles.
        mapping: the declared table and its source.
    """
    findings, figures = catalog.check(target, mapping)
    of_rights, rights = access.check(target, mapping)
    return proof.SCHEMA.result((*findings, *of_rights), {**figures, **rights})


def _impossible(name: str, mapping: TableMapping, error: Exception) -> CheckResult:
    """A failed result for a check that cannot be made; the other checks continue."""
    return CheckResult(name, False, True, (NotComparable(mapping.name, str(error)),))


def _compared(
    prepared: Prepared, source: SourceView, target: Target, sample: Sample, on_progress: OnProgress
) -> Iterator[CheckResult]:
    mapping, survey = prepared.mapping, prepared.survey
    quarantined_ids = {
        source.row_id_from(mapping, row_id) for row_id in quarantine.row_ids(target, mapping.name)
    }
    converter = BatchConverter(source, mapping, prepared.contract, survey)
    converter.rejected |= dict.fromkeys(quarantined_ids)
    keys_only = _not_sampled(survey, sample)
    count = counter(mapping.name, "compare", survey.rows, on_progress)
    conversions.prepare(target)

    def on_tile_compared(changes: Changes) -> None:
        for lost in changes.lost:
            conversions.collect(target, mapping.name, lost)
        if changes.converted is not None:
            count(changes.converted)

    compared = table_checks.examine(
        target,
        mapping,
        survey,
        _batches(converter, keys_only),
        on_tile_compared=on_tile_compared,
        scope=AllRows(keys_only),
    )
    only_a_part = _only_a_part(target, mapping)
    yield _led_by(only_a_part, _conserved(prepared, source, target, converter, quarantined_ids))
    yield _led_by(only_a_part, table_checks.keys(compared))
    equal = table_checks.digests(mapping, compared)
    missing, lacking = conversions.missing_originals(target, mapping, limit=OFFENDERS)
    originals = tuple(OriginalMissing(mapping.name, *each) for each in lacking)
    figures: dict[str, Any] = {"originals_missing": missing} if missing else {}
    if keys_only:
        rows = survey.rows - sum(part.rows for part in keys_only)
        figures |= {"sampled_rows": rows, "of_rows": survey.rows, "seed": sample.seed}
    yield proof.DIGESTS.result((*equal.findings, *originals), {**equal.figures, **figures})


def _only_a_part(target: Target, mapping: TableMapping) -> tuple[Finding, ...]:
    """The reason why rows may be missing, which precedes the other findings."""
    there = target.answer(_WATERMARKS_QUESTION)
    mark = watermarks.read(target, mapping.name) if there else None
    return (PartiallyMoved(mapping.name),) if mark is not None and mark.is_part else ()


def _led_by(why: tuple[Finding, ...], check: CheckResult) -> CheckResult:
    """Put the reason before the findings of a failed check."""
    return check if check.passed else replace(check, findings=(*why, *check.findings))


def _conserved(
    prepared: Prepared,
    source: SourceView,
    target: Target,
    converter: BatchConverter,
    quarantined_ids: set[Any],
) -> CheckResult:
    """Conservation with counted rows; the other rows are in quarantine, unchanged."""
    mapping = prepared.mapping
    unaccounted = [row_id for row_id in converter.rejected if row_id not in quarantined_ids]
    outdated = _outdated(prepared, source, target, quarantined_ids)
    lost: tuple[Finding, ...] = (
        *(Unaccounted(mapping.name, str(row_id)) for row_id in sorted(unaccounted)[:OFFENDERS]),
        *(QuarantineOutdated(mapping.name, row_id) for row_id in outdated[:OFFENDERS]),
    )
    rows = target.answer(schema.count_question(mapping.name))
    kept = conservation.check(target, mapping, source.count(mapping), rows)
    figures = {**kept.figures, "unaccounted": len(unaccounted)}
    if outdated:
        figures["outdated"] = len(outdated)
    return proof.CONSERVATION.result((*kept.findings, *lost), figures)


def _outdated(
    prepared: Prepared, source: SourceView, target: Target, quarantined_ids: set[Any]
) -> list[str]:
    """Row ids in quarantine whose values differ from the source's row.

    Rows with overrides wait for their redrive, and are no loss.
    """
    mapping = prepared.mapping
    overrides = {found.row_id for found in source.overrides.get(mapping.name, ())}
    missing = {str(row_id) for row_id in quarantined_ids} - overrides
    differing: list[str] = []
    with source.sqlite() as connection:
        rows = prepared.contract.explain(
            connection,
            sorted(quarantined_ids, key=str),
            row_id_column=source.row_id_column(mapping),
            held={parent.name: set() for _, parent in mapping.parents},
            known={},
        )
        seen = ((row.row_id, quarantine.source_digests(row)) for row in rows)
        while chunk := dict(islice(seen, _CHUNK)):
            missing -= chunk.keys()
            kept = quarantine.digests(target, mapping.name, list(chunk))
            # A column that is ignored now may have been stored before.
            differing += [
                row_id
                for row_id, values in chunk.items()
                if row_id not in overrides and not values <= kept.get(row_id, set())
            ]
    return sorted([*missing, *differing])


def _batches(converter: BatchConverter, keys_only: Collection[Range]) -> Iterator[ConvertedBatch]:
    mapping: TableMapping = converter.mapping
    keys = BatchConverter(
        converter.source,
        mapping.key_mapping,
        converter.contract,
        converter.survey,
        converter.rejected,
    )
    for part in converter.survey.ranges:
        yield (keys if part in keys_only else converter).convert(part)


def _not_sampled(survey: Survey, sample: Sample) -> frozenset[Range]:
    """The ranges of which only the keys are compared."""
    if survey.bytes <= sample.bytes:
        return frozenset()
    ranges: list[Any] = list(survey.ranges)
    random.Random(sample.seed).shuffle(ranges)  # noqa: S311
    size = 0
    for at, part in enumerate(ranges):
        if size >= sample.bytes:
            return frozenset(ranges[at:])
        size += part.bytes
    return frozenset()
