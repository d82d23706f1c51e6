"""The way back: what the application wrote to the target since the cut-over goes into the source.

It is put into a copy first, and the copy is proven equal to the target, value by value. Only then
those rows go into the source itself, in one transaction, and the migration is in its shadow state
again. Whatever is interrupted is done again from the start; the source is unfrozen last.
"""

from collections.abc import Sequence
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
from pipeline.cutover.replay import NotReversible, Replayed, put, replay
from pipeline.cutover.states import WrongState
from pipeline.cutover.steps import Site, unfreeze
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.context.move_context import Counts
from pipeline.move.ledger import overrides, watermarks
from pipeline.move.proof import side_effects
from pipeline.move.proof.verification import Sample, verify_table
from pipeline.move.reading.extract import Source
from pipeline.move.reading.prepare import prepare
from pipeline.move.witness import second_witness
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot

_EVERYTHING = Sample(2**62, 0)


@dataclass(frozen=True)
class Returned:
    """What went back into one table of the source.

    Attributes:
        table: its name.
        inserted: rows that only the target had.
        updated: rows that differed.
        deleted: rows that the target has no more.
        checks: the proof that both sides are equal now.
        left: how many values stay in the target, by column that the source lacks.
    """

    table: str
    inserted: int
    updated: int
    deleted: int
    checks: tuple[CheckResult, ...]
    left: dict[str, int]


class NotEqual(PipelineError):
    """After the replay both sides are not equal; nothing was changed."""


class NotAsLeft(PipelineError):
    """A database, or how it is read, is not what it was when the target went live."""


def roll_back(site: Site, folder: Path) -> list[Returned]:
    """From live to shadow, with everything that was written since.

    Args:
        site: both databases; the application does not write to the target any more.
        folder: where the copies are made; they need three times the room of the source.

    Returns:
        What went back, by table; nothing where only the unfreeze was left to do.

    Raises:
        WrongState: the migration is not live.
        NotAsLeft: the source is not frozen, or policies or columns are others; nothing was changed.
        NotReversible: a row of the target has no place in the source; nothing was changed.
        TooManyDeletes: more than the share of the source would go; nothing was changed.
        NotEqual: the proof failed; nothing was changed.
        SourceError: the source cannot be read or written; nothing was changed.
    """
    now = states.read(site.target, site.migration)
    if now.state == "frozen":
        unfreeze(site)
        return []
    if now.state == "shadow":
        if freezing.unfreeze(site.path):
            site.log("the source was still frozen; it can be written again")
            return []
        raise WrongState(
            f"The migration is {now}, so there is nothing to take back", remedy="Nothing is to do"
        )
    if now.state == "closed":
        raise WrongState(
            f"The migration is {now}; what was written since was not captured",
            remedy="Restore a backup of the source, or move the data back by hand",
        )
    target, folder = site.target, folder / "back"
    private.folder(folder)
    with target.transaction():
        _require_tables(site)
        names = ", ".join(f"ONLY {quoted(table.name)}" for table in site.tables)
        target.run(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
        before = side_effects.count(target)
        taken = take_snapshot(site.path, folder / "copy.db", tables=())
        rows = _require_as_left(site, Source(taken))
        copy = taken.path
        policies = _as_written(site.options.policies)
        done = replay(copy, target, site.tables, policies=policies, folder=folder / "rows")
        for found in done:
            site.log(_told(found))
            _require_few_deletes(site, found, rows[found.mapping.name])
            _forget_originals(target, found)
        proof = Source(take_snapshot(copy, folder / "proof.db", tables=site.tables))
        overrides.apply(proof, site.tables, overrides.read(target, [t.name for t in site.tables]))
        returned = [
            _proven(site, table, proof, found)
            for table, found in zip(site.tables, done, strict=True)
        ]
        site.log("the copy equals the target, value by value")
        _go_on(target, site.tables)
        for found in done:
            if found.mapping.double_encoded and found.touched:
                # What the application wrote as a string within JSON is to be unwrapped again.
                watermarks.forget(target, found.mapping.name)
        states.change(target, site.migration, "shadow", run_id=site.options.run_id)
        # An application that was not stopped is seen, and keeps the gate closed.
        capture.switch_on(target, site.tables)
        target.settle()
        _require_untouched(site, before)
        # Last, so that nothing but the commit can fail once the source has the rows.
        put(site.path, copy, done)
    freezing.unfreeze(site.path)
    return returned


def _require_tables(site: Site) -> None:
    lacking = [table.name for table in site.tables if not schema.exists(site.target, table.name)]
    if lacking:
        raise NotAsLeft(
            f"The target has no table {', '.join(lacking)} any more",
            remedy="Give it back its name, or restore it, then run again; nothing was changed",
        )


def _require_untouched(site: Site, before: Counts) -> None:
    """Refuse to go on where triggers changed rows of the target after they were compared."""
    now = side_effects.count(site.target)
    changed = [t.name for t in site.tables if now.get(t.name) != before.get(t.name)]
    if changed:
        raise NotEqual(
            f"Triggers of the target changed rows of {', '.join(changed)} after they were compared",
            remedy="Disable the triggers that watch the tables of schema migration, then run"
            " again; nothing was changed",
        )


def _require_as_left(site: Site, source: Source) -> dict[str, int]:
    """Refuse to take back what would be read otherwise than it was moved; returns rows by table."""
    with source.sqlite() as connection:
        if not freezing.is_frozen(connection, site.tables, "main"):
            raise NotAsLeft(
                f"The source {site.path} is not frozen any more, so somebody may have written"
                " there what the way back would overwrite",
                remedy=message(
                    "Put back the file that was frozen; ", RESTORE, " keeps what it replaces"
                ),
            )
    rows = {}
    for table in site.tables:
        mapping = match(table, source.columns(table.name), site.options.policies)
        rows[table.name] = source.count(mapping)
        mark = watermarks.read(site.target, table.name)
        if mark is not None and mark.rules != watermarks.rules_of(mapping):
            raise NotAsLeft(
                f"The source's columns or policies of {table.name} are others than those it moved"
                " by, so values that nobody wrote would change",
                remedy="Set the POLICY_... settings, and the columns, as they were",
            )
        try:
            schema.check_shape(mapping, schema.inspect(site.target, table.name))
        except ShapeError as error:
            raise NotReversible(
                error.problem, remedy="Take that change of the target back, then run again"
            ) from error
    return rows


def _as_written(policies: Policies) -> Policies:
    """An application may go on writing strings within JSON; such a value goes back as it is."""
    either = policies.double_encoded_json == "unwrap"
    return replace(policies, double_encoded_json="either") if either else policies


def _require_few_deletes(site: Site, found: Replayed, rows: int) -> None:
    if len(found.deleted) > rows * site.options.delete_share:
        raise TooManyDeletes(
            f"{found.mapping.name}: {len(found.deleted):,} of {rows:,} rows of the source would be"
            " deleted, because the target lacks them; at most"
            f" {site.options.delete_share:.0%} may go in one run",
            remedy="If they were deleted on purpose, raise MAX_DELETE_SHARE and run again",
        )


def _forget_originals(target: Target, found: Replayed) -> None:
    """An original speaks of a value that was moved; one that the application wrote has none."""
    gone = "DELETE FROM migration.conversions WHERE table_name = $1 AND source_key = ANY($2)"
    name, deleted = found.mapping.name, [str(key) for key in found.deleted]
    if deleted:
        target.rows(f"{gone} RETURNING 1", (name, deleted))
    for column, keys in found.updated.items():
        written = [str(key) for key in keys]
        target.rows(f"{gone} AND column_name = $3 RETURNING 1", (name, written, column))


def _proven(site: Site, table: sa.Table, source: Source, found: Replayed) -> Returned:
    """Hold a table of the copy against the target's."""
    checks = verify_table(
        prepare(table, source, _as_written(site.options.policies)),
        source=source,
        target=site.target,
        sample=_EVERYTHING,
        only=BY_COMPARISON,
    )
    # Of the rows that were taken back, a reader apart from the engine's sees every one.
    touched = found.touched
    checks += (second_witness.check_all(source, site.target, found.mapping, keys=touched),)
    if not all(check.passed for check in checks):
        wrong = list(dict.fromkeys(describe(found) for check in checks for found in check.findings))
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NotEqual(
            f"The source would not equal the target: {'; '.join(wrong[:3])}{more}",
            remedy="Change these rows in the target, or write them again if that was not captured,"
            " then run again; nothing was changed",
        )
    updated = {key for keys in found.updated.values() for key in keys}
    return Returned(
        found.mapping.name,
        len(found.inserted),
        len(updated),
        len(found.deleted),
        checks,
        _left(site.target, found.mapping),
    )


def _left(target: Target, mapping: TableMapping) -> dict[str, int]:
    """Values in columns that the source does not have, although nobody meant it to lack them."""
    own = {column.name for column in mapping.columns}
    own |= {column.name for column in mapping.table.columns if ColumnRules.of(column).added}
    others = sorted(set(schema.inspect(target, mapping.name).types or {}) - own)
    table = quoted(mapping.name)
    found = {
        name: int(target.value(f"SELECT count({quoted(name)}) FROM {table}")) for name in others
    }
    return {name: values for name, values in found.items() if values}


def _go_on(target: Target, tables: Sequence[sa.Table]) -> None:
    """Let the next sync begin where both sides are equal: at what was logged before the freeze."""
    for table in tables:
        by = TableRules.of(table).changed_by
        newest = f"max({quoted(by)})" if by else "NULL::timestamptz"
        target.rows(
            f"UPDATE migration.watermarks SET rows = now.rows, newest = greatest(newest, now.date)"
            f" FROM (SELECT count(*) AS rows, {newest} AS date FROM {quoted(table.name)}) AS now"
            " WHERE table_name = $1 RETURNING 1",
            (table.name,),
        )


def _told(found: Replayed) -> str:
    updated = {key for keys in found.updated.values() for key in keys}
    return (
        f"{found.mapping.name}: {len(found.keys):,} rows were written; {len(found.inserted):,} of"
        f" them are new, {len(updated):,} differ, {len(found.deleted):,} are gone"
    )
