"""The two ways to make a table equal to its source, inside the move's transaction.

``fill`` sets rows down in a bare table and builds keys, foreign keys and indexes afterwards, which
is four times faster than into a table that has them. ``merge`` compares both sides and writes
only what differs, so what is equal is not touched.
"""

import contextlib
from typing import Any, Literal

from pipeline.move import conversions, load, schema, verify
from pipeline.move.changes import Changes
from pipeline.move.contract import quoted
from pipeline.move.errors import ShapeError, TooManyDeletes
from pipeline.move.sift import ahead
from pipeline.move.target import DataFault
from pipeline.move.work import Work

Way = Literal["filled", "merged", "unchanged"]


def fill(work: Work, present: schema.Present) -> None:
    """Fill a table that is missing or empty."""
    target, landing, sieve = work.target, work.landing, work.sieve
    with work.timed("load"):
        target.run(*schema.prepare(landing, present))
        _strip(work, present)
        with ahead(iter(sieve)) as batches:
            load.set_down(target, sieve, batches, on_batch=work.counter("load"))
    with work.timed("keys"):
        _build(work)
    with work.timed("analyze"):
        target.run(f"ANALYZE {quoted(landing.name)}")
    work.written = work.survey.rows - len(sieve.rejected)


def merge(work: Work, present: schema.Present) -> verify.Compared | None:
    """Write what differs into a table with rows.

    Returns:
        The comparison when both sides were equal, so that it is the proof as well; else None.

    Raises:
        TooManyDeletes: more than the share of the table would go.
    """
    target, landing, sieve = work.target, work.landing, work.sieve
    target.run(*schema.prepare(landing, present))
    _build_keys(work, present)
    load.make_stage(target, landing)
    conversions.begin(target)
    gone: list[Any] = []
    count = work.counter("compare")

    def stage(changes: Changes) -> None:
        if len(changes.extra):
            _guard_deletes(work, len(gone) + len(changes.extra))
            gone.extend(changes.extra.to_pylist())
        for lost in changes.lost:
            conversions.collect(target, landing.name, lost)
        batch = None if changes.nothing else changes.to_write(landing.key.name)
        if batch is not None:
            load.set_down_singly(target, sieve, load.STAGE, batch, temporary=True)
        if changes.sifted is not None:
            count(changes.sifted)

    with work.timed("compare"):
        compared = verify.examine(target, landing, work.survey, iter(sieve), on_changes=stage)
    equal = compared.equal and not sieve.rejected
    if not equal:
        with work.timed("load"):
            load.drop_orphans(target, sieve, load.STAGE)
            _delete(work, gone)
            work.written = target.value(f"SELECT count(*) FROM {load.STAGE}")
            load.merge_stage(target, sieve)
            _delete(work, _stale(work))
    target.run(f"DROP TABLE {load.STAGE}")
    with work.timed("keys"):
        _build(work)
    return compared if equal else None


def way_of(work: Work) -> Way:
    """What a merge did."""
    return "merged" if work.written or work.deleted else "unchanged"


def _build(work: Work) -> None:
    """Add the foreign keys, keys and indexes that are not there."""
    target, sieve, landing = work.target, work.sieve, work.landing
    present = schema.look(target, landing.name)
    load.build(target, sieve, schema.foreign_keys(landing, present), on_fault="orphans")
    _build_keys(work, present)
    load.build(target, sieve, schema.indexes(landing, present), on_fault="long")


def _build_keys(work: Work, present: schema.Present) -> None:
    landing = work.landing
    try:
        load.build(work.target, work.sieve, schema.keys(landing, present), on_fault="never")
    except DataFault as fault:
        raise ShapeError(
            f"Table {landing.name} of the target has rows that its keys forbid ({fault})",
            remedy="Remove those rows from the target, then run again",
        ) from fault


def _strip(work: Work, present: schema.Present) -> None:
    """Take keys and indexes off; one that something else of the target needs stays."""
    for statement in schema.strip(work.landing, present):
        with contextlib.suppress(DataFault), work.target.savepoint():
            work.target.run(statement)


def _stale(work: Work) -> list[Any]:
    """Keys of rejected rows that the target still holds in an older version."""
    keys = work.source.keys_of(work.landing, list(work.sieve.rejected))
    if not keys:
        return []
    name = quoted(work.landing.key.name)
    found = work.target.rows(
        f"SELECT {name} FROM {quoted(work.landing.name)} WHERE {name} = ANY($1)", (keys,)
    )
    return [key for (key,) in found]


def _guard_deletes(work: Work, deletes: int) -> None:
    rows = work.target.value(f"SELECT count(*) FROM {quoted(work.landing.name)}")
    if deletes > rows * work.delete_share:
        raise TooManyDeletes(
            f"{work.landing.name}: at least {deletes} of {rows} rows of the target are not in the"
            f" source {work.source.path}; at most {work.delete_share:.0%} may be deleted in a run",
            remedy="Check that this is the right source; if it is, raise MAX_DELETE_SHARE",
        )


def _delete(work: Work, keys: list[Any]) -> None:
    if keys:
        name = quoted(work.landing.key.name)
        work.target.rows(
            f"DELETE FROM {quoted(work.landing.name)} WHERE {name} = ANY($1) RETURNING 1", (keys,)
        )
        work.deleted += len(keys)
