"""Why PostgreSQL rejected a row: the columns, and what is wrong with their values.

The server's error names a column while it reads one, and a constraint or an index otherwise, whose
columns are in the catalog. An index row that is too long may be without a name; then the longest
indexed value is meant.
"""

from typing import Any

from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.contract import Reason
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.driver import refusals
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_TOO_LONG = "54000"
_MEANING = {
    "22P02": "its form is not accepted, such as JSON with half of a surrogate pair",
    "22P05": "an escape sequence in it, such as \\u0000, cannot be stored",
    _TOO_LONG: "the value is too long for an index",
}

_OF_CONSTRAINT = """
SELECT a.attname::text FROM pg_attribute AS a JOIN (
  SELECT conkey AS keys FROM pg_constraint
    WHERE conrelid = to_regclass($1) AND conname = ANY($2)
  UNION ALL SELECT string_to_array(indkey::text, ' ')::int2[] FROM pg_index
    JOIN pg_class AS c ON c.oid = indexrelid
    WHERE indrelid = to_regclass($1) AND c.relname = ANY($2)
  LIMIT 1) AS named ON a.attnum = ANY(keys)
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 ORDER BY a.attnum
"""

_INDEXED = """
SELECT DISTINCT a.attname::text FROM pg_index JOIN pg_attribute AS a ON a.attrelid = indrelid
  AND a.attnum = ANY(indkey) WHERE indrelid = to_regclass($1) AND a.attnum > 0
"""


def reason(
    target: Target, fault: DataFault, mapping: TableMapping, *, key: Any, stage: str = ""
) -> Reason:
    """The reason why PostgreSQL rejected a row.

    Args:
        key: the row's key.
        stage: the table, quoted, that holds the row; empty if none does.
    """
    text = str(fault).replace('"pipeline_stage"', f'"{mapping.name}"')
    message = secret.redact_message(mapping.table, text)
    origin = refusals.refusing_object(target.rows, fault.context, table=mapping.name)
    if origin:
        # The message of a function may contain any value of the row, without quotation marks.
        hidden = secret.SHOWN if secret.columns(mapping.table) else message
        said = f"{origin} refuses it: {hidden} (SQLSTATE {fault.sqlstate})"
        return Reason("refused", fault.context.column or None, said)
    columns = _columns(target, fault, mapping, key=key, stage=stage)
    if fault.sqlstate in _MEANING:
        message = f"{message}; {_MEANING[fault.sqlstate]}"
    message = f"{message} (SQLSTATE {fault.sqlstate})"
    if len(columns) == 1:
        return Reason("refused", columns[0], f"is rejected by PostgreSQL: {message}")
    if columns:
        message = f"{' and '.join(columns)} are rejected by PostgreSQL: {message}"
    return Reason("refused", None, message)


def _columns(
    target: Target, fault: DataFault, mapping: TableMapping, *, key: Any, stage: str
) -> list[str]:
    if fault.context.column:
        return [fault.context.column]
    table = f"public.{quoted(mapping.name)}"
    named = [fault.context.constraint, *secret.quoted_names(str(fault))]
    found = target.rows(_OF_CONSTRAINT, (table, [name for name in named if name]))
    if not found and fault.sqlstate == _TOO_LONG and stage:
        return _longest(target, mapping, key=key, stage=stage)
    return [name for (name,) in found]


def _longest(target: Target, mapping: TableMapping, *, key: Any, stage: str) -> list[str]:
    """The column with the longest value of all that are indexed."""
    indexed = {name for (name,) in target.rows(_INDEXED, (f"public.{quoted(mapping.name)}",))}
    names = [column.name for column in mapping.columns if column.name in indexed]
    if not names:
        return []
    sizes = ", ".join(f"coalesce(octet_length({quoted(name)}::text), 0)" for name in names)
    where = f"{quoted(mapping.key.name)} = $1"
    rows = target.bound(f"SELECT {sizes} FROM {stage} WHERE {where}", (key,))
    return [max(zip(rows[0], names, strict=True))[1]] if rows else []
