"""Make a table of the target equal to its source by writing only the rows that differ.

All rows of the source are copied into a temporary table, the stage, and proven there by position.
The server then compares both tables as multisets of rows, by a hash of each row: it deletes rows
that the stage lacks, inserts rows that only the stage has, and compares again. So no key is needed,
and a row that exists twice counts twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.moving import filling, proving
from pipeline.copy.moving.filling import STAGE, Rows
from pipeline.copy.moving.proving import Proven
from pipeline.copy.target.extras import attempt
from pipeline.copy.target.layout import CopiedTable, listed
from pipeline.core.errors import ShapeError, TooManyDeletes
from pipeline.core.findings import NotConserved
from pipeline.core.quoting import quoted
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
  r.relname::text, n.nspname::text
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND c.confrelid = to_regclass($1)
"""
_TRIGGERS = """
SELECT quote_ident(tgname) FROM pg_trigger
WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgenabled = 'O'
"""


@dataclass(frozen=True)
class Reference:
    """A foreign key of another table, dropped until the rows are written.

    Attributes:
        name: of the constraint, quoted.
        definition: without its name.
        own: a table of the copy has it.
    """

    table: str
    name: str
    definition: str
    own: bool


@dataclass(frozen=True)
class Written:
    """How a table was made equal: numbers of rows, the proof, and dropped foreign keys."""

    inserted: int
    deleted: int
    proven: Proven
    references: tuple[Reference, ...] = ()


def write(
    target: Target, rows: Rows, options: CopyOptions, *, own: Sequence[CopiedTable] = ()
) -> Written:
    """Write the differences, or only count them if the options say so.

    Args:
        target: a session in a transaction with the settings ``positions.IN_ORDER``.
        own: all tables of the copy.

    Raises:
        TooManyDeletes: more rows would be lost; nothing was changed.
    """
    table = rows.table
    target.run(f"DROP TABLE IF EXISTS {_STAGE}", table.ddl(_STAGE, temporary=True))
    filling.fill(target, rows, stage=True)
    proven = proving.compare(target, rows, _STAGE)
    if not proven.equal:
        return Written(0, 0, proven)
    _hash(target, table, _STAGE, _HERE)
    _hash(target, table, table.place, _THERE)
    before, extra, missing = _counts(target)
    if options.verify or not (extra or missing):
        return Written(missing, extra, proven)
    lost = extra - missing
    if lost > before * options.delete_share:
        raise TooManyDeletes(
            f"{table.label}: {lost:,} of {before:,} rows of the target would be lost. At most"
            f" {options.delete_share:.0%} may be deleted in one run",
            remedy=f"Check that {rows.source.source} is the right source; if it is, raise"
            " MAX_DELETE_SHARE",
        )
    references = drop_references(target, table, own) if extra else ()
    triggers = [name for (name,) in target.rows(_TRIGGERS, (table.place,))]
    for trigger in triggers:
        target.run(f"ALTER TABLE {table.place} DISABLE TRIGGER {trigger}")
    names = listed(table.written)
    target.run(
        f"DELETE FROM {table.place} WHERE ctid IN ({_only(_THERE, _HERE)})",
        f"INSERT INTO {table.place} ({names}) OVERRIDING SYSTEM VALUE"
        f" SELECT {names} FROM {_STAGE} WHERE ctid IN ({_only(_HERE, _THERE)}) ORDER BY ctid",
        *(f"ALTER TABLE {table.place} ENABLE TRIGGER {trigger}" for trigger in triggers),
    )
    _prove_again(target, rows, proven)
    target.run(f"DROP TABLE {_STAGE}")
    return Written(missing, extra, proven, references)


def drop_references(
    target: Target, table: CopiedTable, own: Sequence[CopiedTable]
) -> tuple[Reference, ...]:
    """Drop the foreign keys of other tables that refer to a table."""
    known = {(each.name, each.schema) for each in own}
    found = tuple(
        Reference(place, name, definition, (relation, schema) in known)
        for place, name, definition, relation, schema in target.rows(_REFERENCES, (table.place,))
    )
    target.run(*(f"ALTER TABLE {each.table} DROP CONSTRAINT {each.name}" for each in found))
    return found


def restore_references(target: Target, references: Sequence[Reference]) -> None:
    """Make dropped foreign keys again; those of the copy's own tables may wait for their turn.

    Raises:
        ShapeError: rows of another table would lose their parent.
    """
    for each in references:
        statement = f"ALTER TABLE {each.table} ADD CONSTRAINT {each.name} {each.definition}"
        error = attempt(target, statement)
        if error is not None and not each.own:
            raise ShapeError(
                f"Rows of {each.table}, which is not part of the copy, refer to rows that the"
                f" source no longer has ({each.name})",
                remedy="Delete or change these rows first; nothing was changed",
            ) from error


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
    total, extra, missing = _counts(target)
    if extra or missing:
        label, count = rows.table.label, rows.table.rows
        proven.differences.append(NotConserved(label, count, total, len(rows.rejected)))
