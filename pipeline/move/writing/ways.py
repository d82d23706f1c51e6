"""The ways to make a table equal to its source, inside the move's transaction.

``fill`` sets rows down in a bare table and builds keys, foreign keys and indexes afterwards, which
is four times faster than into a table that has them. ``merge`` compares both sides and writes
only what differs, so what is equal is not touched; ``merge_scope`` does so for the rows in scope.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ShapeError, TooManyDeletes
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.row_key import RowKey
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.context.table_scope import Way
from pipeline.move.context.work import Work
from pipeline.move.ledger import cascades, conservation
from pipeline.move.proof import verify
from pipeline.move.reading.sift import ahead
from pipeline.move.writing import load, uniques
from pipeline.postgres import access, objects, schema
from pipeline.postgres.target import DataFault


def fill(work: Work, present: schema.Present) -> load.Stage:
    """Set rows down in a table that is missing or empty, without keys.

    Returns:
        Rows that wait until the indexes are there.
    """
    target, landing, sieve = work.target, work.landing, work.sieve
    with work.timed("load"):
        target.run(*schema.prepare(landing, present))
        _strip(work, present)
        stage = load.Stage(target, sieve)
        with ahead(iter(sieve)) as batches:
            load.set_down(stage, batches, on_batch=work.counter("load"))
    return stage


def finish(work: Work, stage: load.Stage) -> None:
    """Give a filled table its foreign keys, keys and indexes, and the planner its statistics."""
    with work.timed("keys"):
        _build(work, filled=True)
        stage.merge()
    with work.timed("analyze"):
        work.target.run(f"ANALYZE {quoted(work.landing.name)}")
    work.written = work.survey.rows - len(work.sieve.rejected)


def merge(work: Work, present: schema.Present) -> verify.Compared | None:
    """Write what differs into a table with rows.

    Returns:
        The comparison when both sides were equal, so that it is the proof as well; else None.

    Raises:
        TooManyDeletes: more than the share of the table would go.
        ConflictError: somebody changed a row in the target, and the policy is to stop.
    """
    target, landing, sieve = work.target, work.landing, work.sieve
    target.run(*schema.prepare(landing, present))
    _build_keys(work, present)
    conversions.begin(target)
    staged, gone = load.Stage(target, sieve), list[Any]()
    stage, count = _stager(work, staged), work.counter("compare")

    def note(changes: Changes) -> None:
        if len(changes.extra):
            _guard_deletes(work, len(gone) + len(changes.extra))
            gone.extend(changes.extra.to_pylist())
        for lost in changes.lost:
            conversions.collect(target, landing.name, lost)
        stage(changes)
        if changes.sifted is not None:
            work.see(changes.sifted)
            count(changes.sifted)

    with work.timed("compare"):
        compared = verify.examine(target, landing, work.survey, iter(sieve), on_changes=note)
        compared.foreign_keys = verify.foreign_keys(target, landing)
    equal = compared.equal and compared.foreign_keys.passed and not sieve.rejected
    if not equal:
        with work.timed("load"):
            load.drop_orphans(
                target, sieve, quoted(landing.name), on_found=partial(_note_cascades, work)
            )
            _write(work, staged, gone)
    with work.timed("keys"):
        _build(work)
    return compared if equal else None


def merge_scope(work: Work, present: schema.Present) -> None:
    """Write what differs of the rows in scope.

    Raises:
        TooManyDeletes: more than the share of the table would go.
        ConflictError: somebody changed a row in the target, and the policy is to stop.
    """
    target, landing, sieve = work.target, work.landing, work.sieve
    target.run(*schema.prepare(landing, present))
    _build_keys(work, present)
    staged, extra = load.Stage(target, sieve), list[Any]()
    stage = _stager(work, staged)

    def note(changes: Changes) -> None:
        extra.extend(changes.extra.to_pylist())
        stage(changes)

    with work.timed("compare"):
        compared = verify.examine(
            target, landing, work.survey, iter(sieve), on_changes=note, among=work.scope.keys
        )
        work.scope_before = compared.totals.target_rows
        # What the contract rejects is extra as well; it is deleted when all such rows are known.
        gone = sorted(set(extra).intersection(work.scope.deleted))
        _guard_deletes(work, len(gone))
    with work.timed("load"):
        _write(work, staged, gone)
    with work.timed("keys"):
        _build(work)


def _stager(work: Work, staged: load.Stage) -> Callable[[Changes], None]:
    """What stages the source rows that the target needs."""
    staged.make()

    def stage(changes: Changes) -> None:
        kept = work.conflicts.settle(changes)
        batch = changes.to_write(work.landing.key.name, kept=kept)
        if batch is not None and changes.sifted is not None:
            staged.add(batch, changes.sifted)

    return stage


def _write(work: Work, staged: load.Stage, gone: list[Any]) -> None:
    """Delete what is gone and older versions of what was rejected, merge what is staged."""
    load.drop_orphans(work.target, work.sieve, load.STAGE)
    _delete(work, gone)
    # What goes makes room for values that others take over.
    _delete_stale(work)
    for unique in schema.uniques_of(work.landing.table):
        uniques.reject_held(work.target, work.sieve, unique)
        _delete_stale(work)
    uniques.make_way(work.target, work.landing)
    work.written = work.target.value(f"SELECT count(*) FROM {load.STAGE}")
    staged.merge()
    _delete_stale(work)


def _delete_stale(work: Work) -> None:
    stale = _stale(work)
    _guard_deletes(work, work.deleted + len(stale))
    _delete(work, stale)


def way_of(work: Work) -> Way:
    """What a merge did."""
    return "merged" if work.written or work.deleted else "unchanged"


def _build(work: Work, *, filled: bool = False) -> None:
    """Add the foreign keys, keys and indexes that are not there, and what hangs on the table."""
    target, sieve, landing = work.target, work.sieve, work.landing
    # PostgreSQL changes no table of which work is still deferred.
    target.settle()
    present = schema.look(target, landing.name)
    load.build_foreign_keys(
        target,
        sieve,
        schema.foreign_keys(landing, present),
        on_orphans=partial(_note_cascades, work),
    )
    _build_keys(work, present, filled=filled)
    target.run(*schema.indexes(landing, present))
    objects.apply(target, landing.table, access.roles(target))
    access.apply(target, landing)


def _build_keys(work: Work, present: schema.Present, *, filled: bool = False) -> None:
    landing = work.landing
    statements = schema.keys(landing, present)
    try:
        if filled:
            uniques.build(work.target, work.sieve, statements)
        else:
            work.target.run(*statements)
    except DataFault as fault:
        if fault.context.functions:
            raise
        raise ShapeError(
            f"Table {landing.name} of the target has rows that its keys forbid"
            f" ({secret.said_of(landing.table, str(fault))})",
            remedy="Remove those rows from the target, then run again",
        ) from fault


def _strip(work: Work, present: schema.Present) -> None:
    """Take keys and indexes off; one that something else of the target needs stays."""
    if _published(work):
        # PostgreSQL deletes nothing from a published table without its key, and orphans go.
        present = replace(present, referenced=True)
    for statement in schema.strip(work.landing, present):
        with contextlib.suppress(DataFault), work.target.savepoint():
            work.target.run(statement)


def _published(work: Work) -> bool:
    return bool(
        work.target.value(
            "SELECT EXISTS (SELECT FROM pg_publication_tables WHERE schemaname = 'public'"
            " AND tablename = $1)",
            (work.landing.name,),
        )
    )


def _stale(work: Work) -> list[Any]:
    """Keys of rejected rows that the target still holds in an older version."""
    keys = work.source.keys_of(work.landing, list(work.sieve.rejected))
    return conservation.existing(work.target, work.landing, keys)


def _guard_deletes(work: Work, deletes: int) -> None:
    if not deletes:
        return
    if work.target_rows is None:
        count = f"SELECT count(*) FROM {quoted(work.landing.name)}"
        work.target_rows = int(work.target.value(count))
    _demand_share(
        work, work.landing.name, deletes, work.target_rows, f"{work.source.path} lacks them"
    )


def _delete(work: Work, keys: list[Any]) -> None:
    if keys:
        name = quoted(work.landing.key.name)
        _note_cascades(work, keys)
        gone = work.target.rows(
            f"DELETE FROM {quoted(work.landing.name)} WHERE {name} = ANY($1) RETURNING 1", (keys,)
        )
        work.deleted += len(gone)


def _note_cascades(work: Work, keys: list[Any], *, of: sa.Table | None = None) -> None:
    """Count and note what goes along with these rows in the tables that refer to them.

    A run that is killed before their own tables' turn finds the notes in the ledger.
    """
    table = work.landing.table if of is None else of
    _require_no_others(work, table, keys)
    for child in table.metadata.sorted_tables:
        for foreign in child.foreign_keys:
            if foreign.column.table is not table or child is table:
                continue
            if not schema.look(work.target, child.name).exists:
                continue
            key = RowKey.of(child).sql
            found = work.target.rows(
                f"SELECT {key} FROM {quoted(child.name)}"
                f" WHERE {quoted(foreign.parent.name)} = ANY($1)",
                (keys,),
            )
            along = [k for (k,) in found]
            if along and foreign.ondelete == "SET NULL":
                cascades.note(work.target, child.name, along, parent=cascades.STAYED)
            elif along:
                rows = work.target.value(f"SELECT count(*) FROM {quoted(child.name)}")
                why = f"rows of {table.name} that they belong to are deleted"
                _demand_share(work, child.name, len(along), rows, why)
                cascades.note(work.target, child.name, along, parent=table.name)
                _note_cascades(work, along, of=child)


_OTHERS = """
SELECT format('%I.%I', n.nspname, r.relname), quote_ident(c.conname), c.confdeltype = 'c',
  (SELECT string_agg(format('o.%I = t.%I', theirs.attname, ours.attname), ' AND ')
   FROM unnest(c.conkey, c.confkey) AS pair(theirs, ours)
   JOIN pg_attribute AS theirs ON (theirs.attrelid, theirs.attnum) = (c.conrelid, pair.theirs)
   JOIN pg_attribute AS ours ON (ours.attrelid, ours.attnum) = (c.confrelid, pair.ours))
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND c.confrelid = to_regclass($1) AND c.confdeltype IN ('c', 'n', 'd')
AND NOT (n.nspname = 'public' AND r.relname = ANY ($2))
"""


def _require_no_others(work: Work, table: sa.Table, keys: list[Any]) -> None:
    """Refuse to delete rows with which rows of somebody else's tables would go or change."""
    declared = list(table.metadata.tables)
    place, key = f"public.{quoted(table.name)}", RowKey.of(table).sql
    for name, constraint, goes, joined in work.target.rows(_OTHERS, (place, declared)):
        rows = work.target.value(
            f"SELECT count(*) FROM {name} AS o JOIN ONLY {place} AS t ON {joined}"
            f" WHERE t.{key} = ANY($1)",
            (keys,),
        )
        if rows:
            raise TooManyDeletes(
                f"{table.name}: {len(keys):,} rows of the target would be deleted, and"
                f" {rows:,} rows of {name}, which no move has made, would"
                f" {'be deleted' if goes else 'change'} with them",
                remedy=f"Delete or change these rows of {name} first, or make its foreign key"
                f" {constraint} anew without an ON DELETE action",
            )


def _demand_share(work: Work, table: str, deletes: int, rows: int, why: str) -> None:
    if deletes > rows * work.options.delete_share:
        raise TooManyDeletes(
            f"{table}: at least {deletes} of {rows} rows of the target would be deleted, because"
            f" {why}; at most {work.options.delete_share:.0%} may go in one run",
            remedy=f"Check that {work.source.path} is the right source; if it is, raise"
            " MAX_DELETE_SHARE",
        )
