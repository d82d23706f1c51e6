"""Detect side effects of triggers: other rows that change during a move, before it commits.

PostgreSQL counts the rows that a transaction writes to each table. If there are more than the move
itself has written, the rows changed by this transaction are compared with the committed rows, as
seen by another session. A trigger that only changes columns that do not move is allowed.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.core.errors import SideEffect
from pipeline.core.quoting import quoted
from pipeline.mapping.row_key import RowKey
from pipeline.move.context.move_context import Counts, MoveContext, Written
from pipeline.postgres.driver import refusals
from pipeline.postgres.driver.statements import Question, Rows
from pipeline.postgres.session import TRIGGER_REMEDY
from pipeline.postgres.target import Target

_NAMED = 3

_COUNT = """
SELECT relname::text, pg_stat_get_xact_tuples_inserted(oid) AS inserted,
  pg_stat_get_xact_tuples_updated(oid) AS updated, pg_stat_get_xact_tuples_deleted(oid) AS deleted,
  pg_relation_filenode(oid)::bigint AS file, current_setting('track_counts') = 'on' AS counting
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def count(target: Target) -> Counts:
    """The rows that this transaction has written so far to each table of schema ``public``.

    Rows of earlier transactions of the session may be included, so only differences are meaningful.

    Raises:
        SideEffect: the server does not count rows.
    """
    return target.answer(COUNTS_QUESTION)


def _counts(found: Rows) -> Counts:
    if not all(counting for *_, counting in found):
        raise SideEffect(
            "The target does not count written rows (track_counts is off), so changes made by"
            " triggers cannot be detected",
            remedy="Set track_counts to on for this database, which is PostgreSQL's default",
        )
    return {name: Written(*counts) for name, *counts, _ in found}


COUNTS_QUESTION = Question(_COUNT, (), _counts)
"""The question for the rows written by the transaction; see ``count``."""


def require_none(context: MoveContext, *, at_proof: Counts) -> None:
    """Refuse to commit changes of rows that were not proven.

    Args:
        context: the move; nothing is written after this.

    Raises:
        SideEffect: names some of the rows, and the triggers that may have changed them.
    """
    target, own = context.target, context.mapping.name
    target.run_deferred_constraints()
    now = count(target)
    if now.get(own) != at_proof.get(own):
        raise _effect(context, f"rows of {own} changed after they were proven")
    written = {table: _since(context.counts_at_start, now, table) for table in now}
    suspects = _proven_among(context, [name for name in now if name != own and any(written[name])])
    if context.scope.keys is not None and sum(written[own][:3]) > context.written + context.deleted:
        suspects.append(own)
    if suspects:
        with target.another() as committed:
            for table in suspects:
                _require_same(context, committed, table, written[table])


def triggers(target: Target, table: str) -> str:
    """The unmanaged triggers that may change rows while a table is written, for messages."""
    found = refusals.unmanaged_triggers(target.rows, f"public.{quoted(table)}")
    return ", ".join(map(str, found))


def _since(before: Counts, now: Counts, table: str) -> tuple[int, int, int, bool]:
    """Rows inserted, updated and deleted, and whether the table was truncated or rewritten."""
    after = now[table]
    first = before.get(table, Written(0, 0, 0, after.file))
    return (
        after.inserted - first.inserted,
        after.updated - first.updated,
        after.deleted - first.deleted,
        after.file != first.file,
    )


def _proven_among(context: MoveContext, tables: Sequence[str]) -> list[str]:
    """The given tables that were proven before, or will be in this run."""
    if not tables:
        return []
    known = set(context.mapping.table.metadata.tables)
    known |= {
        name for (name,) in context.target.rows("SELECT table_name FROM migration.watermarks")
    }
    return sorted(known.intersection(tables))


def _require_same(
    context: MoveContext, committed: Target, table: str, written: tuple[int, int, int, bool]
) -> None:
    """Refuse changes of moved values compared with the committed rows."""
    declared = context.mapping.table.metadata.tables.get(table)
    if declared is None:
        raise _effect(context, f"rows of {table} changed as well")
    key = RowKey.of(declared).sql
    expected = _expected_keys(context, table)
    changed = set(_differing(context, committed, table, key)) - expected
    deletes = context.deleted if table == context.mapping.name else 0
    if written[2] > deletes or written[3]:
        changed |= _keys(committed, table, key) - _keys(context.target, table, key) - expected
    if changed:
        named = _listed(sorted(changed, key=_by_number))
        raise _effect(context, f"{table} {named} changed as well")


def _expected_keys(context: MoveContext, table: str) -> set[str]:
    """Keys of rows that the move itself has changed, or that were deleted by a cascade."""
    if table == context.mapping.name:
        return {str(key) for key in context.scope.keys or ()}
    found = context.target.rows(
        "SELECT target_key FROM migration.cascaded WHERE table_name = $1", (table,)
    )
    return {key for (key,) in found}


def _differing(context: MoveContext, committed: Target, table: str, key: str) -> list[str]:
    """Keys of rows that this transaction wrote and whose moved values have changed."""
    written = context.target.rows(f"SELECT {key}::text FROM {quoted(table)} WHERE age(xmin) <= 0")
    keys = [found for (found,) in written]
    if not keys:
        return []
    columns = context.target.rows(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0"
        " AND NOT attisdropped",
        (f"public.{quoted(table)}",),
    )
    known = {name for (name,) in columns}
    moved = [quoted(c.name) for c in context.source.columns(table) if c.name in known]
    values = f"md5(ROW({', '.join(moved)})::text)"
    sql = f"SELECT {key}::text, {values} FROM {quoted(table)} WHERE {key}::text = ANY($1)"
    before = dict(committed.rows(sql, (keys,)))
    return [name for name, value in context.target.rows(sql, (keys,)) if before.get(name) != value]


def _keys(session: Target, table: str, key: str) -> set[str]:
    return {found for (found,) in session.rows(f"SELECT {key}::text FROM {quoted(table)}")}


def _effect(context: MoveContext, what: str) -> SideEffect:
    own = context.mapping.name
    found = triggers(context.target, own)
    cause = f"; the cause may be {found}" if found else ""
    return SideEffect(
        f"{own} was rolled back: while it was written, {what}{cause}", remedy=TRIGGER_REMEDY
    )


def _listed(keys: Sequence[str]) -> str:
    some = ", ".join(keys[:_NAMED])
    return f"{some} and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else some


def _by_number(key: str) -> tuple[int, Any]:
    return (0, int(key)) if key.lstrip("-").isdigit() else (1, key)
