"""One table's transaction: make it equal to its source table, and prove it, or change nothing.

An empty target is filled, one with rows is merged into; where it is known which rows may have
changed, only those are looked at. Either way both sides are then read again; when anything is not
equal, the whole transaction is rolled back. Moving twice changes nothing the second time.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import sqlalchemy as sa

from pipeline.core.errors import LossyConversion, ShapeError
from pipeline.core.findings import CheckResult, Lossy
from pipeline.core.progress import OnProgress
from pipeline.core.proof import Proof
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Rejected, forbidden_loss
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import largest_integer
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import Strategy
from pipeline.move.ledger import (
    cascades,
    conflicts,
    conservation,
    quarantine,
    unmanaged_rows,
    watermarks,
)
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.proof import side_effects, table_checks
from pipeline.move.witness import second_witness
from pipeline.move.writing import load, strategies
from pipeline.postgres import schema
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Move:
    """What a move did and proved.

    Attributes:
        table: its name.
        strategy: "filled" (the target was empty), "merged", "synced" (only possible changes were
            looked at), "subset" (only what belongs to it) or "unchanged".
        source_rows: rows of the source table; of a sync, those that were looked at.
        source_bytes: bytes of their values; of a subset, of the rows in it.
        moved_rows: how many of them the target has now.
        written_rows: rows inserted or updated.
        deleted_rows: rows deleted.
        cascaded_rows: rows that had gone before, with a row of another table that they referred to.
        quarantined_rows: rows in quarantine; of a subset, those that belong to it.
        target_rows: rows of the target table now; where only a log of changes was read, the last
            count with what came and went since.
        newest: the largest date of change of any row of the source, None if none has one.
        before: the same when the source was read last.
        mapping: the table as it was moved, with what the source had beyond the declaration.
        checks: the proof; all blocking checks passed.
        seconds: time per phase.
        excluded_rows: rows of the source that a subset leaves out.
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
    before: datetime | None
    mapping: TableMapping
    checks: Proof
    seconds: dict[str, float]
    excluded_rows: int = 0


class TableMover(Protocol):
    """What moves the tables of a run, one after the other.

    Attributes:
        idle: a session that is in no transaction between two moves.
    """

    idle: Target

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> Move:
        """Move a table whose parents have moved before, and ``upcoming`` tables have not.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """


@dataclass(frozen=True)
class PendingFill:
    """A table that the target lacked: filled, without keys, in a transaction that is still open.

    Attributes:
        context: the move under way.
        stage: rows that wait until the indexes are there.
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
    """Fill a table before its turn, while its parents are not yet there.

    Returns:
        None when the target has such a table: what it holds may depend on the moves before.

    Raises:
        SourceError: the snapshot cannot be read; nothing was changed.
        TargetError: the target cannot be written; nothing was changed.
    """
    if schema.inspect(context.target, context.mapping.name).exists:
        return None
    with contextlib.ExitStack() as transaction:
        transaction.enter_context(context.target.transaction())
        context.target.mark_as_move()
        context.before = side_effects.count(context.target)
        stage = strategies.fill(context, schema.Present(exists=False))
        return PendingFill(context, stage, transaction.pop_all())


def move_table(
    context: MoveContext,
    *,
    pending: PendingFill | None = None,
    on_filled: Callable[[], None] = lambda: None,
) -> Move:
    """Move one table; its parents have moved before.

    Args:
        context: the table, and the session that moves it.
        pending: the same work, when the table has been filled before its turn.
        on_filled: called when the target is about to be busy with keys.

    Raises:
        ProofFailed: a blocking check failed; nothing was changed.
        TooManyDeletes: more than the share of the target would go; nothing was changed.
        ConflictError: somebody changed a row in the target, and the policy is to stop.
        ShapeError: the target holds another table of that name, or rows of somebody else.
        SourceError: the snapshot cannot be read.
        TargetError: the target cannot be written.
        LossyConversion: a value would lose something, and the policy forbids that.
        SideEffect: triggers of the target changed rows that no proof has looked at.
    """
    target, mapping = context.target, context.mapping
    compared: table_checks.Compared | None = None
    with pending.transaction if pending else target.transaction():
        target.mark_as_move()
        before = side_effects.count(target) if context.before is None else context.before
        schema.make_ledger(target)
        present = schema.Present(exists=False) if pending else _locked(target, mapping)
        _check_parents(target, mapping)
        context.follow(watermarks.read(target, mapping.name))
        strategy = context.scope.strategy
        if strategy is not None:
            strategies.merge_scope(context, present)
        elif present.rows:
            compared = strategies.merge(context, present)
            strategy = strategies.choose_strategy(context)
        else:
            stage = pending.stage if pending else strategies.fill(context, present)
            on_filled()
            strategies.finish(context, stage)
            strategy = "filled"
        with context.timed("sequence"):
            _advance_sequence(context)
        with context.timed("quarantine"):
            among = context.scope.quarantined(target, mapping.name)
            quarantine.replace(
                target, mapping.name, _rejected(context), run_id=context.options.run_id, among=among
            )
        # What triggers and keys defer to the commit comes before the proof.
        target.settle()
        proven = side_effects.count(target)
        witness = _witness(context)
        if compared is None or before.get(mapping.name) != proven.get(mapping.name):
            compared, lossy = _prove(context, witness)
        else:
            lossy = conversions.replace(target, mapping)
        proof = _proof(context, compared, lossy, witness)
        if proof.failed:
            others = side_effects.triggers(target, mapping.name)
            raise table_checks.ProofFailed(mapping.name, proof, triggers=others)
        if context.scope.keys is None:
            _write_evidence(context, proof)
        cascaded = cascades.forget(target, mapping.name)
        moved = int(proof["conservation"].figures["moved"])
        added = moved - context.scope_before - cascaded
        rows = context.scope.target_rows(target, mapping.name, moved=moved, added=added)
        _remember(context, rows)
        side_effects.require_none(context, before=before, proven=proven)
        committing = time.perf_counter()
    context.seconds["commit"] = time.perf_counter() - committing
    return _move(context, strategy, proof, rows=rows, cascaded=cascaded)


def prove_unchanged(context: MoveContext, mark: Watermark) -> Move:
    """Prove what needs no row of a table whose source has not been written since it was read.

    Args:
        context: the table, with no rows in scope.
        mark: up to where its source was read.
    """
    target, mapping = context.target, context.mapping
    with target.read_only():
        lossy = conversions.summary(target, mapping)
        conserved = conservation.result(mapping, 0, 0, quarantined=0)
        checks = _checks(context, table_checks.Compared(), lossy, conserved)
        proof = Proof((*checks, second_witness.nothing()))
        waiting = len(quarantine.row_ids(target, mapping.name))
    context.mark = mark
    moved = _move(context, "synced", proof, rows=mark.rows, cascaded=0)
    return replace(moved, quarantined_rows=waiting)


def _move(
    context: MoveContext, strategy: Strategy, proof: Proof, *, rows: int, cascaded: int
) -> Move:
    """What was done, and what is told of it."""
    counted = proof["conservation"].figures
    return Move(
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
        before=context.mark.newest if context.mark else None,
        mapping=context.mapping,
        checks=proof,
        seconds=context.seconds,
        excluded_rows=counted.get("excluded", 0),
    )


def _proof(
    context: MoveContext,
    compared: table_checks.Compared,
    lossy: tuple[Lossy, ...],
    witness: second_witness.Witness | None,
) -> Proof:
    read, found = context.survey.rows, compared.totals.target_rows
    with context.timed("prove"):
        conserved = context.scope.conservation(
            context.target, context.mapping, read=read, found=found
        )
        checks = _checks(context, compared, lossy, conserved)
    with context.timed("witness"):
        return Proof((*checks, _witnessed(context, witness)))


def _checks(
    context: MoveContext,
    compared: table_checks.Compared,
    lossy: tuple[Lossy, ...],
    conserved: CheckResult,
) -> tuple[CheckResult, ...]:
    target, mapping = context.target, context.mapping
    checks = table_checks.checks_of(
        context.source,
        target,
        mapping,
        compared,
        lossy,
        conserved=conserved,
        among=context.scope.keys,
    )
    return (*checks, context.conflicts.check())


def _remember(context: MoveContext, rows: int) -> None:
    """Write down up to where the source was read."""
    target, mapping, scope = context.target, context.mapping, context.scope
    conflicts.replace(target, mapping.name, context.conflicts.values, among=scope.ledger_keys)
    source = context.source
    rules, position = watermarks.rules_of(mapping), source.position(mapping.table)
    read = Watermark(context.newest, rows, rules, source.snapshot.fingerprint, position)
    mark = scope.watermark(read, context.mark)
    watermarks.write(target, mapping.name, mark, run_id=context.options.run_id)


def _locked(target: Target, mapping: TableMapping) -> schema.Present:
    """What the target holds, with other writers of the table shut out until the end."""
    present = schema.inspect_for_writing(target, mapping)
    if present.exists:
        target.run(f"LOCK TABLE ONLY {quoted(mapping.name)} IN SHARE ROW EXCLUSIVE MODE")
        # Before the lock anybody could write, or make a child of the table.
        present = schema.inspect_for_writing(target, mapping)
    schema.check_shape(mapping, present)
    if present.rows and not mapping.policies.adopt_target:
        unmanaged_rows.require_own(target.rows, [mapping.table])
    return present


def _check_parents(target: Target, mapping: TableMapping) -> None:
    for _, parent in mapping.parents:
        if parent.name != mapping.name and not schema.inspect(target, parent.name).exists:
            raise ShapeError(
                f"{mapping.name} refers to {parent.name}, which the target does not have",
                remedy=f"Move {parent.name} first",
            )


def _advance_sequence(context: MoveContext) -> None:
    """Let ids go on behind the largest one, rows in quarantine included; never turn back."""
    mapping, ranges = context.mapping, context.survey.ranges
    sequence = table_checks.sequence_of(context.target, mapping)
    if sequence is not None:
        # Ids of rows that a subset leaves out are not to be given out either.
        largest = max(ranges[-1].last if ranges else 0, context.scope.largest or 0)
        if largest > largest_integer(mapping.key.type):
            # A key that the target has no room for must not use the sequence up.
            largest = 0
        context.target.rows(
            f"SELECT setval($1::text::regclass, m) FROM (SELECT greatest($2::bigint,"
            f" max({quoted(mapping.key.name)})) AS m FROM {quoted(mapping.name)}) AS t,"
            f" {sequence} AS s WHERE m >= s.last_value + CASE WHEN s.is_called THEN 1 ELSE 0 END",
            (sequence, largest),
        )


def _rejected(context: MoveContext) -> Iterator[Rejected]:
    """Every rejected row, whole and with all its reasons."""
    if not context.converter.rejected:
        return
    held = quarantine.held_keys(
        context.target, [parent.name for _, parent in context.mapping.parents]
    )
    known = {
        str(h): reason for h, reason in context.converter.rejected.items() if reason is not None
    }
    with context.source.sqlite() as connection:
        for row in context.prepared.contract.explain(
            connection,
            sorted(context.converter.rejected),
            row_id_column=context.source.row_id_column(context.mapping),
            held=held,
            known=known,
            everything=context.source.everything,
        ):
            _require_lossless(context.mapping, row)
            yield row


def _require_lossless(mapping: TableMapping, row: Rejected) -> None:
    forbidden = forbidden_loss(mapping, row)
    if forbidden:
        raise LossyConversion(
            forbidden,
            remedy=f"Nothing of {mapping.name} was changed; mend the value in the source, or set"
            " POLICY_LOSSY_CONVERSIONS to keep or quarantine",
        )


def _witness(context: MoveContext) -> second_witness.Witness | None:
    """A sample, seen before the proof so that the engine hashes the same rows; None for all."""
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


def _witnessed(context: MoveContext, witness: second_witness.Witness | None) -> CheckResult:
    """What the second witness says of the target."""
    if witness is not None:
        return witness.check()
    return second_witness.check_all(
        context.source,
        context.target,
        context.mapping,
        keys=context.scope.keys,
        kept=context.conflicts.kept,
    )


def _prove(
    context: MoveContext, witness: second_witness.Witness | None
) -> tuple[table_checks.Compared, tuple[Lossy, ...]]:
    target, mapping, keys = context.target, context.mapping, context.scope.keys
    with context.timed("prove"):
        aside = quarantine.row_ids(target, mapping.name)
        without = {context.source.row_id_from(mapping, row_id) for row_id in aside}
        conversions.prepare(target)
        count = context.counter("prove")

        def note(changes: Changes) -> None:
            for lost in changes.lost:
                conversions.collect(target, mapping.name, lost)
            if changes.converted is not None:
                context.see(changes.converted)
                count(changes.converted)
                second_witness.add(witness, changes.converted.batch)

        compared = table_checks.examine(
            target,
            mapping,
            context.survey,
            table_checks.as_found(context.source, mapping, context.survey, without=without),
            on_changes=note,
            kept=context.conflicts.kept,
            among=keys,
        )
        return compared, conversions.replace(target, mapping, among=keys)


def _write_evidence(context: MoveContext, proof: Proof) -> None:
    counted = proof["conservation"].figures
    digests = proof["digests"].figures["digests"]
    context.target.rows(
        "INSERT INTO migration.evidence"
        " (run_id, table_name, source_rows, target_rows, quarantined_rows, digests)"
        " VALUES ($1, $2, $3, $4, $5, $6::jsonb) ON CONFLICT (run_id, table_name) DO UPDATE SET"
        " proven_at = now(), source_rows = EXCLUDED.source_rows,"
        " target_rows = EXCLUDED.target_rows, quarantined_rows = EXCLUDED.quarantined_rows,"
        " digests = EXCLUDED.digests RETURNING 1",
        (
            context.options.run_id,
            context.mapping.name,
            counted["source_rows"],
            counted["moved"],
            counted["quarantined"],
            json.dumps(digests),
        ),
    )
