"""The proof of a move, inside its transaction: both sides are read again and compared."""

from typing import Any

from pipeline.core.findings import CheckResult
from pipeline.core.proof import Proof
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.compare.comparison import ALL_ROWS, RowsByKey
from pipeline.move.context.move_context import MoveContext
from pipeline.move.ledger import cascades, conflicts, evidence, quarantine
from pipeline.move.ledger.evidence import Evidence
from pipeline.move.proof import constraints, table_checks
from pipeline.move.witness import second_witness
from pipeline.postgres.driver.statements import Question


def take_witness(context: MoveContext) -> second_witness.Witness | None:
    """A sample, taken before the proof so that the engine hashes the same rows; None for all."""
    if context.options.witness_all:
        return None
    with context.timed("witness"):
        return second_witness.take_sample(
            context.source,
            context.target,
            context.mapping,
            survey=context.survey,
            keys=context.scope.keys,
            kept=context.conflicts.kept,
            seed=context.options.run_id,
        )


def compare(context: MoveContext, witness: second_witness.Witness | None) -> table_checks.Compared:
    """Read both sides again, compare them, and collect the originals of lossy conversions.

    ``conversions.prepare`` comes first.
    """
    target, mapping, keys = context.target, context.mapping, context.scope.keys
    with context.timed("prove"):
        quarantined = quarantine.row_ids(target, mapping.name)
        without = {context.source.row_id_from(mapping, row_id) for row_id in quarantined}
        count = context.counter("prove")

        def on_tile_compared(changes: Changes) -> None:
            for lost in changes.lost:
                conversions.collect(target, mapping.name, lost)
            if changes.converted is not None:
                context.update_newest(changes.converted)
                count(changes.converted)
                second_witness.add(witness, changes.converted.batch)

        return table_checks.examine(
            target,
            mapping,
            context.survey,
            table_checks.unchecked_batches(
                context.source, mapping, context.survey, without=without
            ),
            on_tile_compared=on_tile_compared,
            kept=context.conflicts.kept,
            scope=ALL_ROWS if keys is None else RowsByKey(keys),
        )


def questions(context: MoveContext, *, sequence: str | None = None) -> list[Question[Any]]:
    """What the checks and the end of a move ask, apart from the comparison and the witness.

    Args:
        sequence: the sequence of the key, if it is known already.
    """
    mapping = context.mapping
    asked: list[Question[Any]] = [
        constraints.sequence_question(mapping),
        *constraints.foreign_key_questions(mapping, scope_keys=context.scope.keys),
        quarantine.row_ids_question(mapping.name),
        quarantine.summary_question(mapping.name),
        conversions.summary_question(mapping),
        cascades.parents_question(mapping.name),
        conflicts.recorded_question(mapping.name),
        *context.scope.questions(mapping),
    ]
    if sequence is not None:
        asked.append(constraints.state_question(mapping, sequence))
    return asked


def build(
    context: MoveContext,
    compared: table_checks.Compared,
    witness: second_witness.Witness | None,
) -> Proof:
    """The results of all checks."""
    read, found = context.survey.rows, compared.totals.target_rows
    with context.timed("prove"):
        conserved = context.scope.conservation(
            context.target, context.mapping, read=read, found=found
        )
        checks = engine_checks(context, compared, conserved)
    with context.timed("witness"):
        return Proof((*checks, _witnessed(context, witness)))


def engine_checks(
    context: MoveContext,
    compared: table_checks.Compared,
    conserved: CheckResult,
) -> tuple[CheckResult, ...]:
    """The results of the engine's own checks."""
    target, mapping = context.target, context.mapping
    checks = table_checks.results(
        context.source,
        target,
        mapping,
        compared,
        conversions.summary(target, mapping),
        conserved=conserved,
        scope_keys=context.scope.keys,
    )
    return (*checks, context.conflicts.check())


def _witnessed(context: MoveContext, witness: second_witness.Witness | None) -> CheckResult:
    """The check of the second witness."""
    if witness is not None:
        return witness.check()
    return second_witness.check_all(
        context.source,
        context.target,
        context.mapping,
        keys=context.scope.keys,
        kept=context.conflicts.kept,
    )


def write_evidence(context: MoveContext, proof: Proof) -> None:
    """Store the figures and digests of a proof."""
    counted = proof["conservation"].figures
    proven = Evidence(
        counted["source_rows"],
        counted["moved"],
        counted["quarantined"],
        proof["digests"].figures["digests"],
    )
    run_id = context.options.run_id
    evidence.write(context.target, context.mapping.name, proven, run_id=run_id)
