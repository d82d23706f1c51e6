"""Rows deleted with their parent, or left without it: recorded until their own table is synced."""

from collections.abc import Sequence
from typing import Any

from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target

STAYED = ""
"""The recorded parent of rows that stay in the target without their parent."""


def note(target: Target, table: str, keys: Sequence[Any], *, parent: str) -> None:
    """Record keys of rows to be deleted with their parent, or left without it (``STAYED``)."""
    target.rows(
        "INSERT INTO migration.cascaded AS c (table_name, target_key, parent)"
        " SELECT $1, unnest($2::text[]), $3 ON CONFLICT (table_name, target_key)"
        f" DO UPDATE SET parent = EXCLUDED.parent WHERE c.parent = '{STAYED}' RETURNING 1",
        (table, [str(key) for key in keys], parent),
    )


def keys(target: Target, mapping: TableMapping) -> list[Any]:
    """The recorded keys of a table, as the source writes them."""
    return target.answer(keys_question(mapping))


def keys_question(mapping: TableMapping) -> Question[list[Any]]:
    """The question for the recorded keys of a table."""
    kind = mapping.key.type.python_type
    return Question(
        "SELECT target_key FROM migration.cascaded WHERE table_name = $1",
        (mapping.name,),
        lambda rows: [kind(key) for (key,) in rows],
    )


def forget(target: Target, table: str) -> int:
    """Delete the records of a table; returns how many of the rows were deleted with a parent."""
    noted = target.answer(parents_question(table))
    if noted:
        target.defer("DELETE FROM migration.cascaded WHERE table_name = $1", (table,))
    return sum(parent != STAYED for parent in noted)


def parents_question(table: str) -> Question[list[str]]:
    """The question for the recorded parent of each recorded row."""
    return Question(
        "SELECT parent FROM migration.cascaded WHERE table_name = $1",
        (table,),
        lambda rows: [parent for (parent,) in rows],
    )
