"""The checks of foreign keys, and of the sequence that assigns ids."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core import proof
from pipeline.core.errors import ShapeError
from pipeline.core.findings import OFFENDERS, CheckResult, Finding, Orphan
from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import largest_integer
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.driver.statements import Question, single
from pipeline.postgres.findings import (
    IdsReused,
    IdsTooLarge,
    KeyNotEnforced,
    SequenceBehind,
    SequenceExhausted,
)
from pipeline.postgres.target import Target


def foreign_keys(
    target: Target, mapping: TableMapping, *, scope_keys: Sequence[Any] | None = None
) -> CheckResult:
    """No row lacks its parent, and every constraint is valid.

    Args:
        scope_keys: keys of the rows to check; None for all.
    """
    orphans: list[Finding] = []
    figures: dict[str, Any] = {}
    key = quoted(mapping.key.name)
    for column, parent in mapping.parents:
        count = target.answer(_orphans_question(mapping, column, parent, scope_keys))
        figures[f"orphans by {column.name}"] = count
        if count:
            lonely, parameters = _lonely(mapping, column, parent, scope_keys)
            named = target.rows(
                f"SELECT r.{key}{lonely} ORDER BY r.{key} LIMIT {OFFENDERS}", parameters
            )
            orphans += [Orphan(mapping.name, k, column.name, parent.name) for (k,) in named]
    valid = target.answer(_valid_question(mapping))
    declared = {str(foreign.name) for foreign in mapping.table.foreign_key_constraints}
    figures["valid constraints"] = len(valid)
    orphans += [KeyNotEnforced(mapping.name, name) for name in sorted(declared - valid)]
    return proof.FOREIGN_KEYS.result(orphans, figures)


def foreign_key_questions(
    mapping: TableMapping, *, scope_keys: Sequence[Any] | None = None
) -> Iterator[Question[Any]]:
    """The questions of ``foreign_keys``."""
    yield _valid_question(mapping)
    for column, parent in mapping.parents:
        yield _orphans_question(mapping, column, parent, scope_keys)


def _orphans_question(
    mapping: TableMapping,
    column: sa.Column[Any],
    parent: sa.Table,
    scope_keys: Sequence[Any] | None,
) -> Question[int]:
    lonely, parameters = _lonely(mapping, column, parent, scope_keys)
    return Question(f"SELECT count(*) AS orphans{lonely}", parameters, single)


def _lonely(
    mapping: TableMapping,
    column: sa.Column[Any],
    parent: sa.Table,
    scope_keys: Sequence[Any] | None,
) -> tuple[str, tuple[object, ...]]:
    """SQL for the rows without a parent, from FROM, and its parameters."""
    name, parent_key = quoted(column.name), RowKey.of(parent).sql
    lonely = (
        f" FROM {quoted(mapping.name)} AS r WHERE {name} IS NOT NULL AND NOT EXISTS"
        f" (SELECT FROM {quoted(parent.name)} AS p WHERE p.{parent_key} = r.{name})"
    )
    if scope_keys is None:
        return lonely, ()
    return f"{lonely} AND r.{quoted(mapping.key.name)} = ANY($1)", (tuple(scope_keys),)


def _valid_question(mapping: TableMapping) -> Question[set[str]]:
    return Question(
        "SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND convalidated"
        " AND conrelid = to_regclass($1)",
        (f"public.{quoted(mapping.name)}",),
        lambda rows: {name for (name,) in rows},
    )


def sequences(target: Target, mapping: TableMapping, *, assigned: int = 0) -> CheckResult:
    """The next id is larger than every id, and than every id that the source ever assigned.

    Args:
        assigned: the last id that the source assigned; 0 if it does not record that.
    """
    name = find_sequence(target, mapping)
    if name is None:
        return proof.SEQUENCES.result(figures={"sequence": "none"})
    upcoming, last, largest = target.answer(state_question(mapping, name))
    findings: list[Finding] = []
    if upcoming <= largest:
        findings.append(SequenceBehind(mapping.name, name, upcoming, largest))
    most = largest_integer(mapping.key.type)
    if assigned > most:
        findings.append(IdsTooLarge(mapping.name, mapping.key.name, assigned, most))
    elif largest < upcoming <= assigned:
        findings.append(IdsReused(mapping.name, name, upcoming, assigned))
    # If the type itself has no further number, the sequence is not at fault.
    if upcoming > last and last < most:
        findings.append(SequenceExhausted(mapping.name, name))
    figures = {"next": upcoming, "largest": largest}
    return proof.SEQUENCES.result(findings, figures | ({"assigned": assigned} if assigned else {}))


def require_ids_fit(mapping: TableMapping, assigned: int) -> None:
    """Refuse a key whose type ends before the ids that the source has assigned.

    Raises:
        ShapeError: the target could assign only ids that may have been used before.
    """
    most = largest_integer(mapping.key.type)
    if assigned > most:
        raise ShapeError(
            IdsTooLarge(mapping.name, mapping.key.name, assigned, most).sentence,
            remedy=f"Declare {mapping.key.name} as sa.BigInteger; or, if those ids were never used,"
            " lower seq of this table in sqlite_sequence of the source",
        )


def is_behind(
    target: Target, mapping: TableMapping, sequence: str | None, *, assigned: int
) -> bool:
    """Whether a sequence, if there is one, would assign an id that is or was assigned."""
    if sequence is None:
        return False
    upcoming, _, largest = target.answer(state_question(mapping, sequence))
    return upcoming <= min(max(assigned, largest), largest_integer(mapping.key.type))


def state_question(mapping: TableMapping, sequence: str) -> Question[tuple[int, int, int]]:
    """The question for the next and the last possible id of a sequence, and the table's largest."""
    key = quoted(mapping.key.name)
    return Question(
        # The next number may be larger than any bigint.
        "SELECT last_value, CASE WHEN is_called THEN seqincrement ELSE 0 END AS step,"
        f" seqmax, (SELECT coalesce(max({key}), 0)::bigint FROM {quoted(mapping.name)}) AS largest"
        f" FROM {sequence}, pg_sequence WHERE seqrelid = to_regclass($1)",
        (sequence,),
        lambda rows: (rows[0][0] + rows[0][1], rows[0][2], rows[0][3]),
    )


def find_sequence(target: Target, mapping: TableMapping) -> str | None:
    """The sequence of an identity or a default that assigns ids, quoted; None if there is none."""
    return target.answer(sequence_question(mapping))


def sequence_question(mapping: TableMapping) -> Question[str | None]:
    """The questions of ``find_sequence``."""
    return Question(
        "SELECT coalesce(pg_get_serial_sequence($1, $2), (SELECT format('%I.%I', n.nspname,"
        " c.relname) FROM pg_attribute a JOIN pg_attrdef f ON (f.adrelid, f.adnum) ="
        " (a.attrelid, a.attnum) JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass"
        " AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass JOIN pg_class c"
        " ON c.oid = d.refobjid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE a.attrelid = to_regclass($1) AND a.attname = $2 LIMIT 1)) AS name"
        " WHERE to_regclass($1) IS NOT NULL",
        (f"public.{quoted(mapping.name)}", mapping.key.name),
        lambda rows: rows[0][0] if rows else None,
    )
