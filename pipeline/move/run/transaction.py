"""One table's transaction: make it equal to its source table and prove it, or change nothing.

An empty table is filled; a table with rows is merged. If the changed rows are known, only those are
compared. Then both sides are read again; any difference rolls back the whole transaction. A second
move changes nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.core.errors import Transient
from pipeline.core.proof import Proof
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import conversions
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import CountedRows, Strategy
from pipeline.move.ledger import (
    cascades,
    check_results,
    conflicts,
    conservation,
    quarantine,
    watermarks,
)
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.proof import constraints, side_effects, table_checks
from pipeline.move.run import opening, proving, quarantine_share
from pipeline.move.witness import second_witness
from pipeline.move.writing import load, sequences, strategies
from pipeline.postgres import schema


@dataclass(frozen=True)
class MoveResult:
    """The result of a move.

    Attributes:
        strategy: "filled" (the target was empty), "merged", "synced" (only possible changes were
            compared), "subset" (only its rows were compared) or "unchanged".
        source_rows: rows of the source table; for a sync, the compared rows.
        source_bytes: bytes of their values; for a subset, of its rows.
        moved_rows: how many of them the target has now.
        cascaded_rows: rows deleted earlier, together with a parent row.
        quarantined_rows: rows in quarantine; for a subset, those that belong to it.
        target_rows: rows of the target table now; if only a change log was read, the last count
            plus the changes since.
        newest: the largest date of change of all rows of the source, if any.
        previous_newest: the same when the source was last read.
        mapping: the moved table, including columns beyond the declaration.
        checks: the proof; all blocking checks passed.
        excluded_rows: rows of the source outside the subset.
    """

    table: str
    strategy: Strategy
    source_rows: int
    source_bytes: int
    moved_rows: int
    written_rows: int
    deleted_rows: int
    cascaded_rows: int
    quarantined_rows: int
    target_rows: int
    newest: datetime | None
    previous_newest: datetime | None
    mapping: TableMapping
    checks: Proof
    seconds: dict[str, float]
    excluded_rows: int = 0

    @property
    def figures(self) -> dict[str, int]:
        """What metadata, evidence and terminal show of the move, by name."""
        return {
            "source_rows": self.source_rows,
            "source_bytes": self.source_bytes,
            "moved": self.moved_rows,
            "written": self.written_rows,
            "deleted": self.deleted_rows,
            "cascaded": self.cascaded_rows,
            "quarantined": self.quarantined_rows,
            "excluded": self.excluded_rows,
        }


class CommitLost(Transient):
    """The connection was lost before the server confirmed a commit.

    Attributes:
        move: the result of the move if it was committed.
    """

    def __init__(self, error: Transient, move: MoveResult) -> None:
        """Keep the result, because the move may have been committed."""
        super().__init__(
            error.problem,
            remedy=f"Run again; if {move.table} was committed, a second move changes nothing",
        )
        self.move = move


@dataclass(frozen=True)
class PendingFill:
    """A new table of the target, filled without keys in a transaction that is still open.

    Attributes:
        transaction: closing it without an exception commits.
    """

    context: MoveContext
    stage: load.Stage
    transaction: contextlib.ExitStack

    def undo(self) -> None:
        """Roll back."""
        with contextlib.suppress(_Undone), self.transaction:
            raise _Undone


class _Undone(Exception):
    pass


def start_fill(context: MoveContext) -> PendingFill | None:
    """Fill a table before its turn, while its parents do not exist yet.

    Returns:
        None if the target has such a table: its contents may depend on earlier moves.

    Raises:
        SourceError: the snapshot cannot be read; nothing was changed.
        TargetError: the target cannot be written; nothing was changed.
    """
    if schema.inspect(context.target, context.mapping.name).exists:
        return None
    with contextlib.ExitStack() as transaction:
        transaction.enter_context(context.target.transaction())
        context.target.mark_as_move()
        context.counts_at_start = side_effects.count(context.target)
        stage = strategies.fill(context, schema.TargetTableState(exists=False))
        return PendingFill(context, stage, transaction.pop_all())


def move_table(
    context: MoveContext,
    *,
    pending: PendingFill | None = None,
    on_filled: Callable[[], None] = lambda: None,
) -> MoveResult:
    """Move one table whose parents have already been moved; any error rolls everything back.

    Args:
        context: the table, and the session that moves it.
        pending: the same move if the table was filled before its turn.
        on_filled: called before the target starts to build keys.

    Raises:
        ProofFailed: a blocking check failed.
        TooManyDeletes: more than the allowed share of the target would be deleted.
        TooManyRejected: too many rows of the table would be in quarantine.
        ConflictError: a row was changed in the target, and the policy is to stop.
        ShapeError: the target has another table of that name, or unmanaged rows.
        SourceError: the snapshot cannot be read.
        TargetError: the target cannot be written.
        LossyConversion: a value would be converted with a loss, and the policy forbids it.
        SideEffect: triggers of the target changed rows that were not proven.
        CommitLost: whether the move was committed is unknown.
    """
    target, mapping = context.target, context.mapping
    compared: table_checks.Compared | None = None
    proven: list[MoveResult] = []
    with _known_commit(proven), pending.transaction if pending else target.transaction():
        target.mark_as_move()
        present = opening.start(context, filled=pending is not None)
        strategy = context.scope.strategy
        if strategy is not None:
            strategies.merge_scope(context, present)
        elif present.rows:
            compared = strategies.merge(context, present)
            strategy = strategies.choose_strategy(context)
        else:
            stage = pending.stage if pending else strategies.fill(context, present)
            on_filled()
            strategies.finish(context, stage, present)
            strategy = "filled"
        sequence = _finish_rows(context)
        # Deferred triggers and constraint checks run before the proof.
        target.run_deferred_constraints()
        if compared is None:
            conversions.prepare(target)
        with target.prefetched(
            side_effects.COUNTS_QUESTION, quarantine.row_ids_question(mapping.name)
        ):
            at_proof = side_effects.count(target)
            witness = proving.take_witness(context)
            untouched = context.counts_at_start.get(mapping.name) == at_proof.get(mapping.name)
            if compared is not None and not untouched:
                conversions.prepare(target)
                compared = None
            compared = compared or proving.compare(context, witness)
        conversions.replace(target, mapping, scope_keys=context.scope.keys)
        with target.prefetched(*proving.questions(context, sequence=sequence)):
            proof = proving.build(context, compared, witness)
            if proof.failed:
                triggers = side_effects.triggers(target, mapping.name)
                raise table_checks.ProofFailed(mapping.name, proof, triggers=triggers)
            if context.scope.keys is None:
                proving.write_evidence(context, proof)
            cascaded = cascades.forget(target, mapping.name)
            rows = _target_rows(context, proof, cascaded)
            quarantine_share.require_small(context, proof, target_rows=rows)
            _write_watermark(context, rows)
            if strategy != "synced" or context.scope.keys:
                # A sync that compared no row does not undo what a verification has found.
                whole, run_id = context.scope.keys is None, context.options.run_id
                target.defer(
                    check_results.statement(mapping.name, proof, run_id=run_id, whole=whole)
                )
        side_effects.require_none(context, at_proof=at_proof)
        proven.append(_move(context, strategy, proof, rows=rows, cascaded=cascaded))
        committing = time.perf_counter()
    context.seconds["commit"] = time.perf_counter() - committing
    return proven[0]


@contextlib.contextmanager
def _known_commit(proven: Sequence[MoveResult]) -> Iterator[None]:
    """Raise ``CommitLost`` if the connection is lost after everything was proven."""
    try:
        yield
    except Transient as error:
        if proven:
            raise CommitLost(error, proven[0]) from error
        raise


def prove_unchanged(
    context: MoveContext, mark: Watermark, *, sequence: str | None = None
) -> MoveResult:
    """Make the checks that compare no rows, for a table of which no row has changed.

    If all rows were counted, their numbers are compared and the watermark is renewed.

    Args:
        context: the table, with no rows in scope.
        sequence: the sequence of its key, if it is known.
    """
    target, mapping, scope = context.target, context.mapping, context.scope
    counted = isinstance(scope, CountedRows)
    with target.prefetched(*proving.questions(context, sequence=sequence)):
        conserved = (
            scope.conservation(target, mapping, read=0, found=0)
            if counted
            else conservation.result(mapping, 0, 0, quarantined=0)
        )
        checks = proving.engine_checks(context, table_checks.Compared(), conserved)
        proof = Proof((*checks, second_witness.nothing()))
        waiting = len(quarantine.row_ids(target, mapping.name))
        context.watermark = mark
        rows = int(proof["conservation"].figures["moved"]) if counted else mark.rows
        if counted and not proof.failed:
            with target.transaction():
                _write_watermark(context, rows)
    moved = _move(context, "synced", proof, rows=rows, cascaded=0)
    return replace(moved, quarantined_rows=waiting)


def _move(
    context: MoveContext, strategy: Strategy, proof: Proof, *, rows: int, cascaded: int
) -> MoveResult:
    """The result of a move."""
    counted = proof["conservation"].figures
    return MoveResult(
        table=context.mapping.name,
        strategy=strategy,
        source_rows=counted["source_rows"],
        source_bytes=context.survey.bytes,
        moved_rows=counted["moved"],
        written_rows=context.written,
        deleted_rows=context.deleted,
        cascaded_rows=cascaded,
        quarantined_rows=counted["quarantined"],
        target_rows=rows,
        newest=context.newest,
        previous_newest=context.watermark.newest if context.watermark else None,
        mapping=context.mapping,
        checks=proof,
        seconds=context.seconds,
        excluded_rows=counted.get("excluded", 0),
    )


def _write_watermark(context: MoveContext, rows: int) -> None:
    """Store conflicts and the new watermark."""
    target, mapping, scope, source = context.target, context.mapping, context.scope, context.source
    conflicts.replace(target, mapping.name, context.conflicts.values, scope_keys=scope.ledger_keys)
    rules, position = watermarks.rules_digest(mapping), source.position(mapping.table)
    read = Watermark(context.newest, rows, rules, source.snapshot.fingerprint, position)
    mark = scope.watermark(read, context.watermark)
    watermarks.write(target, mapping.name, mark, run_id=context.options.run_id)


def _target_rows(context: MoveContext, proof: Proof, cascaded: int) -> int:
    """Rows of the target table after the move."""
    scope, moved = context.scope, int(proof["conservation"].figures["moved"])
    added = moved - context.scope_before - cascaded
    return scope.target_rows(context.target, context.mapping.name, moved=moved, added=added)


def _finish_rows(context: MoveContext) -> str | None:
    """Advance the sequence and update quarantine; returns the sequence."""
    target, mapping = context.target, context.mapping
    asked = constraints.sequence_question(mapping), quarantine.fingerprints_question(mapping.name)
    with target.prefetched(*asked):
        with context.timed("sequence"):
            sequence = sequences.advance(context)
        with context.timed("quarantine"):
            scope_keys = context.scope.quarantined(target, mapping.name)
            quarantine.replace(
                target,
                mapping.name,
                context.rejected_rows(),
                run_id=context.options.run_id,
                scope_keys=scope_keys,
            )
    return sequence
