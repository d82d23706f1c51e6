"""Rollback: write the changes that the application made in the target back to the source.

The changes are replayed into a copy, which is proven equal to the target, value by value. Then the
changed rows are written to the source itself, in one transaction, and the state of the migration
becomes shadow again. An interrupted rollback starts again from the beginning; the source is
unfrozen last.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from pipeline.core import private
from pipeline.core.errors import PipelineError, ShapeError, TooManyDeletes
from pipeline.core.findings import CheckResult, describe
from pipeline.core.messages import RESTORE, message
from pipeline.core.policies import Policies
from pipeline.core.proof import BY_COMPARISON
from pipeline.core.quoting import quoted
from pipeline.cutover import capture, freezing, states
from pipeline.cutover.replay import replay
from pipeline.cutover.source.changed_rows import NotReversible, Replayed
from pipeline.cutover.states import WrongState
from pipeline.cutover.steps import CutoverContext, unfreeze
from pipeline.cutover.write_back import write_back
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.move_context import Counts
from pipeline.move.ledger import overrides, watermarks
from pipeline.move.proof import side_effects
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.witness import second_witness
from pipeline.postgres import relations, schema
from pipeline.postgres.target import Target
from pipeline.sqlite import copy_markers
from pipeline.sqlite.snapshot import take_snapshot

_EVERYTHING = Sample(2**62, 0)

_NOTHING_DONE = "Nothing was changed, and the application may go on writing to the target"
_ROWS_SENT = (
    "The migration is still live and the source still frozen, but the source may have the"
    " target's rows already; another rollback completes it"
)
_ROWS_WRITTEN = (
    "The source has the target's rows already and is still frozen, but the migration may still be"
    " live; another rollback completes it"
)
_STILL_FROZEN = (
    "The rows are in the source and the migration is shadow, but the source is still frozen;"
    " another rollback unfreezes it"
)


@dataclass(frozen=True)
class Returned:
    """The changes of one table of the source.

    Attributes:
        inserted: number of rows that only the target had.
        updated: number of rows that differed.
        deleted: number of rows that the target no longer had.
        checks: the proof that both sides are equal now.
        left: number of values that stay in the target, by column that the source lacks.
        notes: which triggers of the source ran, and the state of its full-text indexes.
    """

    table: str
    inserted: int
    updated: int
    deleted: int
    checks: tuple[CheckResult, ...]
    left: dict[str, int]
    notes: tuple[str, ...] = ()


class NotEqual(PipelineError):
    """Both sides differ after the replay; nothing was changed."""


class ChangedSinceCutover(PipelineError):
    """A database or a policy has changed since the target went live."""


def roll_back(context: CutoverContext, folder: Path) -> list[Returned]:
    """Go from live to shadow, with all changes made since the cut-over.

    Args:
        context: both databases; the application no longer writes to the target.
        folder: for the copies, which need three times the size of the source.

    Returns:
        The changes by table; empty if only the source had to be unfrozen.

    Raises:
        WrongState: the migration is not live.
        ChangedSinceCutover: the source is not frozen, or policies or columns differ; nothing was
            changed.
        NotReversible: the source cannot store a row of the target; nothing was changed.
        TooManyDeletes: too many rows of the source would be deleted; nothing was changed.
        NotEqual: the proof failed; nothing was changed.
        SourceError: the source cannot be read or written; nothing was changed.
    """
    now = states.read(context.target, context.migration)
    if now.state == "frozen":
        unfreeze(context)
        return []
    if now.state == "shadow":
        if freezing.unfreeze(context.path):
            context.log("the source was still frozen; it is unfrozen now")
            return []
        raise WrongState(
            f"The migration is {now}, so there is nothing to roll back", remedy="Nothing to do"
        )
    if now.state == "closed":
        raise WrongState(
            f"The migration is {now}; later changes were not captured",
            remedy="Move the data back manually; a restored backup would lack all later writes",
        )
    private.folder(folder / "back")
    with _describing(_NOTHING_DONE) as progress:
        with context.target.transaction():
            copy, done, returned = _replay_and_prove(context, folder / "back")
            if copy_markers.primary_of(context.path, why="a rollback") is not None:
                # A server may commit the rows although its answer is lost.
                progress.so_far = _ROWS_SENT
            # Last, so that only the commit can fail once the source has the rows.
            notes = write_back(context.path, copy, done).notes
            progress.so_far = _ROWS_WRITTEN
        progress.so_far = _STILL_FROZEN
        freezing.unfreeze(context.path)
    for table, sentences in notes.items():
        context.log(f"{table}: {'; '.join(sentences)}")
    return [replace(each, notes=tuple(notes.get(each.table, ()))) for each in returned]


@dataclass
class _Progress:
    so_far: str


@contextmanager
def _describing(so_far: str) -> Iterator[_Progress]:
    """Add to an error what was done and what was not."""
    progress = _Progress(so_far)
    try:
        yield progress
    except PipelineError as error:
        if progress.so_far != _NOTHING_DONE or "nothing was changed" not in str(error).lower():
            error.problem = f"{error.problem.rstrip('.')}. {progress.so_far}"
        raise


def _replay_and_prove(
    context: CutoverContext, folder: Path
) -> tuple[Path, list[Replayed], list[Returned]]:
    """Write the changes to a copy of the source, prove it, and change the target's state.

    Returns:
        The copy, its changed rows, and the proof by table.
    """
    target = context.target
    _require_tables(context)
    locked = ", ".join(f"ONLY {quoted(table.name)}" for table in context.tables)
    target.run(f"LOCK TABLE {locked} IN SHARE ROW EXCLUSIVE MODE")
    taken = take_snapshot(context.path, folder / "copy.db", tables=())
    names = [table.name for table in context.tables]
    types = relations.column_types(target, names)
    rows = _require_unchanged(context, SourceView(taken, target_types=types))
    copy = taken.path
    policies = _keep_json_strings(context.options.policies)
    done = replay(copy, target, context.tables, policies=policies, folder=folder / "rows")
    # After the replay, which may have rounded moments; the proof reads every row again.
    before = side_effects.count(target)
    for found in done:
        context.log(found.summary)
        _require_few_deletes(context, found, rows[found.mapping.name])
        _forget_originals(target, found)
    proof = SourceView(
        take_snapshot(copy, folder / "proof.db", tables=context.tables), target_types=types
    )
    overrides.apply(proof, context.tables, overrides.read(target, names), policies)
    returned = [
        _prove(context, table, proof, found)
        for table, found in zip(context.tables, done, strict=True)
    ]
    context.log("the copy equals the target, value by value")
    _update_watermarks(target, context.tables)
    for found in done:
        if found.mapping.double_encoded and found.touched:
            # The next sync unwraps the JSON strings that the application wrote.
            watermarks.forget(target, found.mapping.name)
    states.change(target, context.migration, "shadow", run_id=context.options.run_id)
    # Further writes of an application that was not stopped keep the gate closed.
    capture.switch_on(target, context.tables)
    target.run_deferred_constraints()
    _require_untouched(context, before)
    return copy, done, returned


def _require_tables(context: CutoverContext) -> None:
    missing = [
        table.name for table in context.tables if not schema.exists(context.target, table.name)
    ]
    if missing:
        raise ChangedSinceCutover(
            f"The target no longer has the table {', '.join(missing)}",
            remedy="Rename it back or restore it, then run again; nothing was changed",
        )


def _require_untouched(context: CutoverContext, before: Counts) -> None:
    """Stop if triggers changed rows of the target after they were compared."""
    now = side_effects.count(context.target)
    changed = [t.name for t in context.tables if now.get(t.name) != before.get(t.name)]
    if changed:
        raise NotEqual(
            f"Triggers of the target changed rows of {', '.join(changed)} after they were compared",
            remedy="Disable the triggers on tables of schema migration, then run again; nothing was"
            " changed",
        )


def _require_unchanged(context: CutoverContext, source: SourceView) -> dict[str, int]:
    """Refuse a source, columns or policies that changed since the cut-over; returns row counts."""
    with source.sqlite() as connection:
        if not freezing.is_frozen(connection, context.tables, "main"):
            raise ChangedSinceCutover(
                f"The source {context.path} is no longer frozen, so the rollback might overwrite"
                " changes that were made there",
                remedy=message(
                    "Restore the frozen file; ", RESTORE, " keeps a copy of the file it replaces"
                ),
            )
    rows = {}
    for table in context.tables:
        mapping = source.match(table, context.options.policies)
        rows[table.name] = source.count(mapping)
        mark = watermarks.read(context.target, table.name)
        if mark is not None and mark.rules != watermarks.rules_digest(mapping):
            raise ChangedSinceCutover(
                f"The source's columns or the policies of {table.name} have changed since its last"
                " move, so the rollback would also change other values",
                remedy="Restore the previous POLICY_... settings and columns",
            )
        try:
            schema.check_shape(mapping, schema.inspect(context.target, table.name))
        except ShapeError as error:
            raise NotReversible(
                error.problem, remedy="Undo that change of the target, then run again"
            ) from error
    return rows


def _keep_json_strings(policies: Policies) -> Policies:
    """Accept JSON strings that the application wrote to the target; they are not unwrapped."""
    either = policies.double_encoded_json == "unwrap"
    return replace(policies, double_encoded_json="either") if either else policies


def _require_few_deletes(context: CutoverContext, found: Replayed, rows: int) -> None:
    if len(found.deleted) > rows * context.options.delete_share:
        raise TooManyDeletes(
            f"{found.mapping.name}: {len(found.deleted):,} of {rows:,} rows of the source would be"
            " deleted because the target lacks them. At most"
            f" {context.options.delete_share:.0%} may be deleted in one run",
            remedy="If they were deleted on purpose, raise MAX_DELETE_SHARE and run again",
        )


def _forget_originals(target: Target, found: Replayed) -> None:
    """Delete the originals of changed values; only moved values have one."""
    delete = "DELETE FROM migration.conversions WHERE table_name = $1 AND source_key = ANY($2)"
    name, deleted = found.mapping.name, [str(key) for key in found.deleted]
    if deleted:
        target.rows(f"{delete} RETURNING 1", (name, deleted))
    for column, keys in found.updated.items():
        written = [str(key) for key in keys]
        target.rows(f"{delete} AND column_name = $3 RETURNING 1", (name, written, column))


def _prove(
    context: CutoverContext, table: sa.Table, source: SourceView, found: Replayed
) -> Returned:
    """Compare a table of the copy with the target's."""
    checks = verify_table(
        prepare(table, source, _keep_json_strings(context.options.policies)),
        source=source,
        target=context.target,
        sample=_EVERYTHING,
        only=BY_COMPARISON,
    )
    # The second witness, which is independent of the engine, checks every changed row.
    touched = found.touched
    checks += (second_witness.check_all(source, context.target, found.mapping, keys=touched),)
    if not all(check.passed for check in checks):
        wrong = list(dict.fromkeys(describe(found) for check in checks for found in check.findings))
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NotEqual(
            f"The source would differ from the target: {'; '.join(wrong[:3])}{more}",
            remedy="Correct these rows in the target, or write them again if the change was not"
            " captured, then run again; nothing was changed",
        )
    updated = {key for keys in found.updated.values() for key in keys}
    return Returned(
        found.mapping.name,
        len(found.inserted),
        len(updated),
        len(found.deleted),
        checks,
        _left(context.target, found.mapping),
    )


def _left(target: Target, mapping: TableMapping) -> dict[str, int]:
    """Number of values by column that the source lacks, without columns declared as added."""
    own = {column.name for column in mapping.columns}
    own |= {column.name for column in mapping.table.columns if ColumnRules.of(column).added}
    others = sorted(set(schema.inspect(target, mapping.name).types or {}) - own)
    table = quoted(mapping.name)
    found = {
        name: int(target.value(f"SELECT count({quoted(name)}) FROM {table}")) for name in others
    }
    return {name: values for name, values in found.items() if values}


def _update_watermarks(target: Target, tables: Sequence[sa.Table]) -> None:
    """Set rows and newest date to the current state; the position stays that of the freeze."""
    for table in tables:
        by = TableRules.of(table).changed_by
        newest = f"max({quoted(by)})" if by else "NULL::timestamptz"
        target.rows(
            f"UPDATE migration.watermarks SET rows = now.rows, newest = greatest(newest, now.date)"
            f" FROM (SELECT count(*) AS rows, {newest} AS date FROM {quoted(table.name)}) AS now"
            " WHERE table_name = $1 RETURNING 1",
            (table.name,),
        )
