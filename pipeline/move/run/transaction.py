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
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.contract import Rejected, forbidden_loss
from pipeline.mapping.landing import Landing
from pipeline.mapping.types import largest_integer, type_name
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.context.table_scope import Way
from pipeline.move.context.work import Work
from pipeline.move.ledger import (
    cascades,
    conflicts,
    conservation,
    ownership,
    quarantine,
    watermarks,
)
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.proof import side_effects, verify
from pipeline.move.witness import witnessing
from pipeline.move.writing import load, ways
from pipeline.postgres import schema
from pipeline.postgres.target import Target


@dataclass(frozen=True)
class Move:
    """What a move did and proved.

    Attributes:
        table: its name.
        way: "filled" (the target was empty), "merged", "synced" (only what may have changed was
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
        columns: the target's columns, as (name, type, description).
        checks: the proof; all blocking checks passed.
        seconds: time per phase.
        excluded_rows: rows of the source that a subset leaves out.
    """

    table: str
    way: Way
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
    columns: tuple[tuple[str, str, str], ...]
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
class Begun:
    """A table that the target lacked: filled, without keys, in a transaction that is still open.

    Attributes:
        work: the move under way.
        stage: rows that wait until the indexes are there.
        transaction: closing it without an exception commits.
    """

    work: Work
    stage: load.Stage
    transaction: contextlib.ExitStack

    def undo(self) -> None:
        """Roll back."""
        with contextlib.suppress(_Undone), self.transaction:
            raise _Undone


class _Undone(Exception):
    pass


def begin(work: Work) -> Begun | None:
    """Fill a table before its turn, while its parents are not yet there.

    Returns:
        None when the target has such a table: what it holds may depend on the moves before.

    Raises:
        SourceError: the snapshot cannot be read; nothing was changed.
        TargetError: the target cannot be written; nothing was changed.
    """
    if schema.look(work.target, work.landing.name).exists:
        return None
    with contextlib.ExitStack() as transaction:
        transaction.enter_context(work.target.transaction())
        work.target.say_moving()
        work.before = side_effects.count(work.target)
        stage = ways.fill(work, schema.Present(exists=False))
        return Begun(work, stage, transaction.pop_all())


def move_table(
    work: Work, *, begun: Begun | None = None, on_filled: Callable[[], None] = lambda: None
) -> Move:
    """Move one table; its parents have moved before.

    Args:
        work: the table, and the session that moves it.
        begun: the same work, when the table has been filled before its turn.
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
    target, landing = work.target, work.landing
    compared: verify.Compared | None = None
    with begun.transaction if begun else target.transaction():
        target.say_moving()
        before = side_effects.count(target) if work.before is None else work.before
        schema.make_ledger(target)
        present = schema.Present(exists=False) if begun else _locked(target, landing)
        _check_parents(target, landing)
        work.follow(watermarks.read(target, landing.name))
        way = work.scope.way
        if way is not None:
            ways.merge_scope(work, present)
        elif present.rows:
            compared = ways.merge(work, present)
            way = ways.way_of(work)
        else:
            stage = begun.stage if begun else ways.fill(work, present)
            on_filled()
            ways.finish(work, stage)
            way = "filled"
        with work.timed("sequence"):
            _advance_sequence(work)
        with work.timed("quarantine"):
            among = work.scope.quarantined(target, landing.name)
            quarantine.replace(
                target, landing.name, _rejected(work), run_id=work.options.run_id, among=among
            )
        # What triggers and keys defer to the commit comes before the proof.
        target.settle()
        proven = side_effects.count(target)
        witness = _witness(work)
        if compared is None or before.get(landing.name) != proven.get(landing.name):
            compared, lossy = _prove(work, witness)
        else:
            lossy = conversions.replace(target, landing)
        proof = _proof(work, compared, lossy, witness)
        if proof.failed:
            others = side_effects.triggers(target, landing.name)
            raise verify.ProofFailed(landing.name, proof, triggers=others)
        if work.scope.keys is None:
            _write_evidence(work, proof)
        cascaded = cascades.forget(target, landing.name)
        moved = int(proof["conservation"].figures["moved"])
        added = moved - work.scope_before - cascaded
        rows = work.scope.target_rows(target, landing.name, moved=moved, added=added)
        _remember(work, rows)
        side_effects.require_none(work, before=before, proven=proven)
        committing = time.perf_counter()
    work.seconds["commit"] = time.perf_counter() - committing
    return _move(work, way, proof, rows=rows, cascaded=cascaded)


def prove_unchanged(work: Work, mark: Watermark) -> Move:
    """Prove what needs no row of a table whose source has not been written since it was read.

    Args:
        work: the table, with no rows in scope.
        mark: up to where its source was read.
    """
    target, landing = work.target, work.landing
    with target.looking():
        lossy = conversions.summary(target, landing)
        conserved = conservation.result(landing, 0, 0, quarantined=0)
        checks = _checks(work, verify.Compared(), lossy, conserved)
        proof = Proof((*checks, witnessing.nothing()))
        waiting = len(quarantine.handles(target, landing.name))
    work.mark = mark
    moved = _move(work, "synced", proof, rows=mark.rows, cascaded=0)
    return replace(moved, quarantined_rows=waiting)


def _move(work: Work, way: Way, proof: Proof, *, rows: int, cascaded: int) -> Move:
    """What was done, and what is told of it."""
    counted = proof["conservation"].figures
    return Move(
        table=work.landing.name,
        way=way,
        source_rows=counted["source_rows"],
        source_bytes=work.survey.bytes,
        moved_rows=counted["moved"],
        written_rows=work.written,
        deleted_rows=work.deleted,
        cascaded_rows=cascaded,
        quarantined_rows=counted["quarantined"],
        target_rows=rows,
        newest=work.newest,
        before=work.mark.newest if work.mark else None,
        columns=columns_of(work.landing),
        checks=proof,
        seconds=work.seconds,
        excluded_rows=counted.get("excluded", 0),
    )


def columns_of(landing: Landing) -> tuple[tuple[str, str, str], ...]:
    """The target's columns, as (name, type, description)."""
    return tuple(
        (column.name, type_name(column.type), ColumnRules.of(column).description or "")
        for column in landing.table.columns
    )


def _proof(
    work: Work,
    compared: verify.Compared,
    lossy: tuple[Lossy, ...],
    witness: witnessing.Witness | None,
) -> Proof:
    read, found = work.survey.rows, compared.totals.target_rows
    with work.timed("prove"):
        conserved = work.scope.conservation(work.target, work.landing, read=read, found=found)
        checks = _checks(work, compared, lossy, conserved)
    with work.timed("witness"):
        return Proof((*checks, _witnessed(work, witness)))


def _checks(
    work: Work, compared: verify.Compared, lossy: tuple[Lossy, ...], conserved: CheckResult
) -> tuple[CheckResult, ...]:
    target, landing = work.target, work.landing
    checks = verify.checks_of(
        work.source,
        target,
        landing,
        compared,
        lossy,
        conserved=conserved,
        among=work.scope.keys,
    )
    return (*checks, work.conflicts.check())


def _remember(work: Work, rows: int) -> None:
    """Write down up to where the source was read."""
    target, landing, scope = work.target, work.landing, work.scope
    conflicts.replace(target, landing.name, work.conflicts.values, among=scope.ledger_keys)
    position, seen = work.source.position(landing.table), work.source.snapshot.seen
    read = Watermark(work.newest, rows, watermarks.rules_of(landing), seen, position)
    mark = scope.watermark(read, work.mark)
    watermarks.write(target, landing.name, mark, run_id=work.options.run_id)


def _locked(target: Target, landing: Landing) -> schema.Present:
    """What the target holds, with other writers of the table shut out until the end."""
    present = schema.look_to_write(target, landing)
    if present.exists:
        target.run(f"LOCK TABLE ONLY {quoted(landing.name)} IN SHARE ROW EXCLUSIVE MODE")
        # Before the lock anybody could write, or make a child of the table.
        present = schema.look_to_write(target, landing)
    schema.check_shape(landing, present)
    if present.rows and not landing.policies.adopt_target:
        ownership.demand_own(target.rows, [landing.table])
    return present


def _check_parents(target: Target, landing: Landing) -> None:
    for _, parent in landing.parents:
        if parent.name != landing.name and not schema.look(target, parent.name).exists:
            raise ShapeError(
                f"{landing.name} refers to {parent.name}, which the target does not have",
                remedy=f"Move {parent.name} first",
            )


def _advance_sequence(work: Work) -> None:
    """Let ids go on behind the largest one, rows in quarantine included; never turn back."""
    landing, ranges = work.landing, work.survey.ranges
    sequence = verify.sequence_of(work.target, landing)
    if sequence is not None:
        # Ids of rows that a subset leaves out are not to be given out either.
        largest = max(ranges[-1].last if ranges else 0, work.scope.largest or 0)
        if largest > largest_integer(landing.key.type):
            # A key that the target has no room for must not use the sequence up.
            largest = 0
        work.target.rows(
            f"SELECT setval($1::text::regclass, m) FROM (SELECT greatest($2::bigint,"
            f" max({quoted(landing.key.name)})) AS m FROM {quoted(landing.name)}) AS t,"
            f" {sequence} AS s WHERE m >= s.last_value + CASE WHEN s.is_called THEN 1 ELSE 0 END",
            (sequence, largest),
        )


def _rejected(work: Work) -> Iterator[Rejected]:
    """Every rejected row, whole and with all its reasons."""
    if not work.sieve.rejected:
        return
    held = quarantine.held_keys(work.target, [parent.name for _, parent in work.landing.parents])
    known = {str(h): reason for h, reason in work.sieve.rejected.items() if reason is not None}
    with work.source.sqlite() as connection:
        for row in work.prepared.contract.explain(
            connection,
            sorted(work.sieve.rejected),
            handle_column=work.source.handle_column(work.landing),
            held=held,
            known=known,
            everything=work.source.everything,
        ):
            _demand_lossless(work.landing, row)
            yield row


def _demand_lossless(landing: Landing, row: Rejected) -> None:
    forbidden = forbidden_loss(landing, row)
    if forbidden:
        raise LossyConversion(
            forbidden,
            remedy=f"Nothing of {landing.name} was changed; mend the value in the source, or set"
            " POLICY_LOSSY_CONVERSIONS to keep or quarantine",
        )


def _witness(work: Work) -> witnessing.Witness | None:
    """A sample, seen before the proof so that the engine hashes the same rows; None for all."""
    if work.options.witness_all:
        return None
    with work.timed("witness"):
        return witnessing.look(
            work.source,
            work.target,
            work.landing,
            survey=work.survey,
            keys=work.scope.keys,
            kept=work.conflicts.kept,
            seed=work.options.run_id,
        )


def _witnessed(work: Work, witness: witnessing.Witness | None) -> CheckResult:
    """What the second witness says of the target."""
    if witness is not None:
        return witness.check()
    return witnessing.check_all(
        work.source,
        work.target,
        work.landing,
        keys=work.scope.keys,
        kept=work.conflicts.kept,
    )


def _prove(
    work: Work, witness: witnessing.Witness | None
) -> tuple[verify.Compared, tuple[Lossy, ...]]:
    target, landing, keys = work.target, work.landing, work.scope.keys
    with work.timed("prove"):
        aside = quarantine.handles(target, landing.name)
        without = {work.source.handle_from(landing, handle) for handle in aside}
        conversions.begin(target)
        count = work.counter("prove")

        def note(changes: Changes) -> None:
            for lost in changes.lost:
                conversions.collect(target, landing.name, lost)
            if changes.sifted is not None:
                work.see(changes.sifted)
                count(changes.sifted)
                witnessing.add(witness, changes.sifted.batch)

        compared = verify.examine(
            target,
            landing,
            work.survey,
            verify.as_found(work.source, landing, work.survey, without=without),
            on_changes=note,
            kept=work.conflicts.kept,
            among=keys,
        )
        return compared, conversions.replace(target, landing, among=keys)


def _write_evidence(work: Work, proof: Proof) -> None:
    counted = proof["conservation"].figures
    digests = proof["digests"].figures["digests"]
    work.target.rows(
        "INSERT INTO migration.evidence"
        " (run_id, table_name, source_rows, target_rows, quarantined_rows, digests)"
        " VALUES ($1, $2, $3, $4, $5, $6::jsonb) ON CONFLICT (run_id, table_name) DO UPDATE SET"
        " proven_at = now(), source_rows = EXCLUDED.source_rows,"
        " target_rows = EXCLUDED.target_rows, quarantined_rows = EXCLUDED.quarantined_rows,"
        " digests = EXCLUDED.digests RETURNING 1",
        (
            work.options.run_id,
            work.landing.name,
            counted["source_rows"],
            counted["moved"],
            counted["quarantined"],
            json.dumps(digests),
        ),
    )
