"""Make a table of the target equal to its source by writing only the rows that differ.

All rows of the source are copied into a temporary table, the stage, and proven there by position.
The server then compares both tables as multisets of rows, by a hash of each row: it deletes rows
that the stage lacks, inserts rows that only the stage has, and compares again. So no key is needed,
and a row that exists twice counts twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.expressions.trial import refusal
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.moving import filling, proving, witness
from pipeline.copy.moving.filling import STAGE, Rows
from pipeline.copy.moving.findings import RowsDiffer
from pipeline.copy.moving.proving import Proven
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.target.extras import NOT_MET, LeftOut, attempt
from pipeline.copy.target.layout import CopiedTable, listed
from pipeline.core.errors import ShapeError, TooManyDeletes
from pipeline.core.quoting import counted, quoted
from pipeline.postgres.target import Target

_STAGE = f"pg_temp.{STAGE}"
_HASHES = """
CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS
  SELECT at, hash, row_number() OVER (PARTITION BY hash ORDER BY at) AS n
  FROM (SELECT ctid AS at, pg_catalog.md5(ROW({values})::text) AS hash FROM {table}) AS r
"""
_ONLY = """
SELECT a.at FROM pg_temp.{of} AS a WHERE NOT EXISTS
  (SELECT FROM pg_temp.{other} AS b WHERE (b.hash, b.n) = (a.hash, a.n))
"""
_HERE, _THERE = "pipeline_stage_rows", "pipeline_table_rows"
_REFERENCES = """
SELECT c.conrelid::regclass::text, quote_ident(c.conname), pg_get_constraintdef(c.oid),
  n.nspname::text, r.relname::text, c.conname::text
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND to_regclass($1) IN (c.confrelid{own})
"""
_TRIGGERS = """
SELECT quote_ident(tgname), CASE tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END
FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
"""
_OTHERS = """
SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0
  AND NOT attisdropped AND attgenerated = '' AND attidentity = '' AND attname <> ALL ($2)
ORDER BY attnum
"""
_KEPT = "pipeline_kept"


@dataclass(frozen=True)
class Reference:
    """A foreign key of another table, dropped until the rows are written.

    Attributes:
        name: of the constraint, quoted.
        definition: without its name.
        own: a copy made it.
        label: of its table in the copy, None if that is another table.
    """

    table: str
    name: str
    definition: str
    own: bool
    label: str | None


@dataclass(frozen=True)
class Copied:
    """What the copy makes.

    Attributes:
        labels: of the tables, by schema and name.
        references: schema, table and name of the foreign keys.
        constraints: names of the other constraints and indexes, by label.
    """

    labels: Mapping[tuple[str, str], str]
    references: frozenset[tuple[str, str, str]]
    constraints: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Written:
    """How a table was made equal: numbers of rows, the proof, and dropped foreign keys."""

    inserted: int
    deleted: int
    proven: Proven
    references: tuple[Reference, ...] = ()
    witnessed: int = 0


def write(
    target: Target, rows: Rows, options: CopyOptions, copied: Copied, *, in_circle: bool = False
) -> Written:
    """Write the differences, or only count them if the options say so.

    Args:
        target: a session in a transaction with the settings ``positions.IN_ORDER``.
        in_circle: parents of the table may be written after it.

    Raises:
        TooManyDeletes: more rows would be lost; nothing was changed.
        ShapeError: values of other columns would be lost; nothing was changed.
    """
    table = rows.table
    target.run(f"DROP TABLE IF EXISTS {_STAGE}", table.ddl(_STAGE, temporary=True))
    filling.fill(target, rows, stage=True)
    proven = proving.compare(target, rows, _STAGE)
    if not proven.equal:
        return Written(0, 0, proven)
    seen = witness.check(target, rows, _STAGE, seed=options.run_id)
    if seen.differences:
        proven.differences += seen.differences
        return Written(0, 0, proven)
    _hash(target, table, _STAGE, _HERE)
    _hash(target, table, table.place, _THERE)
    before, extra, missing = _counts(target)
    if options.verify or not (extra or missing):
        return Written(missing, extra, proven, witnessed=seen.rows)
    require_few_lost(rows.source, table, before, extra - missing, options)
    references: tuple[Reference, ...] = ()
    if extra or in_circle:
        references = drop_references(target, table, copied, also_own=in_circle)
    keep, give_back = _kept(target, table) if extra else ((), ())
    triggers = target.rows(_TRIGGERS, (table.place,))
    names = listed(table.written)
    statements = (
        # A foreign key may wait for the end of the transaction, where nobody can leave it out.
        "SET CONSTRAINTS ALL IMMEDIATE",
        *keep,
        *(f"ALTER TABLE {table.place} DISABLE TRIGGER {name}" for name, _ in triggers),
        f"DELETE FROM {table.place} WHERE ctid IN ({_only(_THERE, _HERE)})",
        f"INSERT INTO {table.place} ({names}) OVERRIDING SYSTEM VALUE"
        f" SELECT {names} FROM {_STAGE} WHERE ctid IN ({_only(_HERE, _THERE)}) ORDER BY ctid",
        *give_back,
        *(f"ALTER TABLE {table.place} {enable} TRIGGER {name}" for name, enable in triggers),
    )
    error = attempt(target, *statements)
    if error is not None:
        if error.sqlstate not in NOT_MET:
            raise error
        references += _drop_constraints(target, table, copied)
        target.run(*statements)
    _prove_again(target, rows, proven)
    target.run(f"DROP TABLE {_STAGE}")
    return Written(missing, extra, proven, references, seen.rows)


def require_few_lost(
    source: PreparedSource, table: CopiedTable, before: int, lost: int, options: CopyOptions
) -> None:
    """Refuse to make a table much smaller.

    Raises:
        TooManyDeletes: more rows would be lost than the options allow.
    """
    if lost > before * options.delete_share:
        raise TooManyDeletes(
            f"{table.label}: {lost:,} of {before:,} rows of the target would be lost. At most"
            f" {options.delete_share:.0%} may be deleted in one run",
            remedy=f"Check that {source.source} is the right source; if it is, raise"
            " MAX_DELETE_SHARE",
        )


def _drop_constraints(target: Target, table: CopiedTable, copied: Copied) -> tuple[Reference, ...]:
    """Drop what the rows of the source no longer meet, and all else that can be made again."""
    references = drop_references(target, table, copied, also_own=True)
    for name in copied.constraints[table.label]:
        target.run(
            f"ALTER TABLE {table.place} DROP CONSTRAINT IF EXISTS {quoted(name)}",
            f"DROP INDEX IF EXISTS {quoted(table.schema)}.{quoted(name)}",
        )
    return references


def _kept(target: Target, table: CopiedTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Statements that keep the values of columns that are not of the copy, by the primary key."""
    known = [column.name for column in table.mapping.columns]
    others = [name for (name,) in target.rows(_OTHERS, (table.place, known))]
    if not others:
        return (), ()
    keys = [table.names[table.exact(name)] for name in table.source.primary_key]
    if not keys:
        raise ShapeError(
            f"{table.label} of the target has other columns ({', '.join(others)}), and no primary"
            " key by which their values could be kept while rows are written",
            remedy="Move these columns to another table; nothing was changed",
        )
    kept = f"pg_temp.{_KEPT}"
    same = " AND ".join(f"t.{quoted(name)} = k.{quoted(name)}" for name in keys)
    values = ", ".join(f"{quoted(name)} = k.{quoted(name)}" for name in others)
    return (
        f"DROP TABLE IF EXISTS {kept}",
        f"CREATE TEMPORARY TABLE {_KEPT} ON COMMIT DROP AS SELECT {listed([*keys, *others])}"
        f" FROM {table.place} WHERE ctid IN ({_only(_THERE, _HERE)})",
    ), (f"UPDATE {table.place} AS t SET {values} FROM {kept} AS k WHERE {same}",)


def drop_references(
    target: Target, table: CopiedTable, copied: Copied, *, also_own: bool = False
) -> tuple[Reference, ...]:
    """Drop the foreign keys that refer to a table.

    Args:
        also_own: those of the table, too.
    """
    sql = _REFERENCES.format(own=", c.conrelid" if also_own else "")
    found = tuple(
        Reference(
            place,
            quoted_name,
            definition,
            (schema, relation, name) in copied.references,
            copied.labels.get((schema, relation)),
        )
        for place, quoted_name, definition, schema, relation, name in target.rows(
            sql, (table.place,)
        )
    )
    target.run(*(f"ALTER TABLE {each.table} DROP CONSTRAINT {each.name}" for each in found))
    return found


def restore_references(target: Target, references: Sequence[Reference]) -> list[Reference]:
    """Make dropped foreign keys again; those of the copy may wait for their turn.

    Returns:
        Foreign keys of copied tables that others have made, and that are not valid before these
        tables are written, too.

    Raises:
        ShapeError: rows of another table would lose their parent.
    """
    postponed = []
    for each in dict.fromkeys(references):
        statement = f"ALTER TABLE {each.table} ADD CONSTRAINT {each.name} {each.definition}"
        error = attempt(target, statement)
        if error is None or each.own:
            continue
        if each.label is None:
            raise ShapeError(
                f"Rows of {each.table}, which is not part of the copy, refer to rows that the"
                f" source no longer has ({each.name})",
                remedy="Delete or change these rows first; nothing was changed",
            ) from error
        target.run(f"{statement} NOT VALID")
        postponed.append(each)
    return postponed


def validate(target: Target, references: Sequence[Reference]) -> list[LeftOut]:
    """Check foreign keys that had to wait; those that rows do not meet stay as they are."""
    left = []
    for each in references:
        error = attempt(target, f"ALTER TABLE {each.table} VALIDATE CONSTRAINT {each.name}")
        if error is not None:
            reason = f"rows of the source do not meet it, so it is NOT VALID now; {refusal(error)}"
            left.append(LeftOut("foreign key", each.label or "", each.name, reason))
    return left


def _hash(target: Target, table: CopiedTable, place: str, name: str) -> None:
    values = ", ".join(_value(column) for column in table.mapping.columns)
    target.run(f"DROP TABLE IF EXISTS pg_temp.{name}")
    target.run(_HASHES.format(name=name, values=values, table=place))


def _value(column: "sa.Column[object]") -> str:
    name = quoted(column.name)
    if isinstance(column.type, sa.LargeBinary):
        return f"pg_catalog.md5({name})"
    return f"{name}::text" if isinstance(column.type, JSONB) else name


def _only(of: str, other: str) -> str:
    return _ONLY.format(of=of, other=other)


def _counts(target: Target) -> tuple[int, int, int]:
    """Rows of the table, rows that only the table has, and rows that only the stage has."""
    ((before, extra, missing),) = target.rows(
        f"SELECT (SELECT count(*) FROM pg_temp.{_THERE}),"
        f" (SELECT count(*) FROM ({_only(_THERE, _HERE)}) AS r),"
        f" (SELECT count(*) FROM ({_only(_HERE, _THERE)}) AS r)"
    )
    return int(before), int(extra), int(missing)


def _prove_again(target: Target, rows: Rows, proven: Proven) -> None:
    """Compare the written table with the proven stage once more."""
    _hash(target, rows.table, rows.table.place, _THERE)
    _, extra, missing = _counts(target)
    if extra or missing:
        detail = (
            f"after it was written, the target lacks {counted(missing, 'row')} of the source, and"
            f" has {counted(extra, 'row')} that the source lacks"
        )
        proven.differences.append(RowsDiffer(rows.table.label, detail))
