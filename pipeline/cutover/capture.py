"""Capture writes to the target by anything but a move: triggers and an outbox.

Only keys are stored, because a rollback reads the current rows. The triggers fire once per
statement, for every session, and store the keys of all affected rows, including cascades.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.quoting import literal, quoted
from pipeline.declared import trigger_prefixes
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.session import MOVING
from pipeline.postgres.target import Target

_FUNCTION = f"""
CREATE OR REPLACE FUNCTION migration.note_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
BEGIN
  IF pg_catalog.current_setting('{MOVING}', true) = 'on' THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO migration.outbox (table_name) VALUES (TG_TABLE_NAME);
  ELSE
    EXECUTE pg_catalog.format(
      'INSERT INTO migration.outbox (table_name, key) SELECT %L, %I::text FROM %s',
      TG_TABLE_NAME, TG_ARGV[0], TG_ARGV[1]);
  END IF;
  RETURN NULL;
END
$body$
"""


_TRIGGERS = {
    "insert": ("AFTER INSERT", 'REFERENCING NEW TABLE AS "after"', '"after"'),
    "update": (
        "AFTER UPDATE",
        'REFERENCING OLD TABLE AS "before" NEW TABLE AS "after"',
        '(SELECT {key} FROM "before" UNION SELECT {key} FROM "after") AS rows',
    ),
    "delete": ("AFTER DELETE", 'REFERENCING OLD TABLE AS "before"', '"before"'),
    "truncate": ("AFTER TRUNCATE", "", ""),
}


def switch_on(target: Target, tables: Sequence[sa.Table]) -> None:
    """Empty the outbox and start to capture writes to existing tables, within a transaction."""
    switch_off(target, tables)
    install(target, tables)


def install(target: Target, tables: Sequence[sa.Table]) -> None:
    """Start to capture writes and keep the contents of the outbox, within a transaction."""
    target.run(_FUNCTION, "REVOKE ALL ON FUNCTION migration.note_changes() FROM PUBLIC")
    for table in tables:
        name, key = f"public.{quoted(table.name)}", RowKey.of(table).name
        for event, (when, images, rows) in _TRIGGERS.items():
            arguments = f"{literal(key)}, {literal(rows.format(key=quoted(key)))}"
            target.run(
                f"CREATE TRIGGER {_name(event)} {when} ON {name} {images}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION migration.note_changes({arguments})",
                # ALWAYS: also in a session that applies replicated changes.
                f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {_name(event)}",
            )


def switch_off(target: Target, tables: Sequence[sa.Table]) -> None:
    """Stop capturing writes and empty the outbox, within a transaction."""
    for table in tables:
        if target.value("SELECT to_regclass($1) IS NOT NULL", (f"public.{quoted(table.name)}",)):
            for event in _TRIGGERS:
                target.run(f"DROP TRIGGER IF EXISTS {_name(event)} ON public.{quoted(table.name)}")
    target.rows(
        "DELETE FROM migration.outbox WHERE table_name = ANY($1) RETURNING 1",
        ([table.name for table in tables],),
    )


def is_on(target: Target, table: sa.Table) -> bool:
    """Whether every write to a table is captured, whichever session writes."""
    triggers = target.value(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = ANY($2)"
        " AND tgenabled = 'A'",
        (f"public.{quoted(table.name)}", [_name(event) for event in _TRIGGERS]),
    )
    return bool(triggers == len(_TRIGGERS))


def noted(target: Target, tables: Sequence[sa.Table]) -> dict[str, int]:
    """The number of captured rows by table; a truncation counts as one, no write as none.

    A row that was written several times has several entries, and counts once.
    """
    names = [table.name for table in tables]
    return dict(
        target.rows(
            "SELECT table_name, count(DISTINCT key) + max((key IS NULL)::int)"
            " FROM migration.outbox WHERE table_name = ANY($1)"
            " GROUP BY table_name ORDER BY table_name",
            (names,),
        )
    )


def truncated(target: Target, tables: Sequence[sa.Table]) -> list[str]:
    """The names of the tables that were truncated."""
    found = target.rows(
        "SELECT DISTINCT table_name FROM migration.outbox WHERE table_name = ANY($1)"
        " AND key IS NULL ORDER BY 1",
        ([table.name for table in tables],),
    )
    return [name for (name,) in found]


def keys(target: Target, mapping: TableMapping) -> list[Any] | None:
    """Keys of the rows that were written; None if any row may have been."""
    if not is_on(target, mapping.table):
        return None
    found = target.rows(
        "SELECT DISTINCT key FROM migration.outbox WHERE table_name = $1", (mapping.name,)
    )
    if (None,) in found:
        return None
    kind = mapping.key.type.python_type
    return sorted(kind(key) for (key,) in found)


def _name(event: str) -> str:
    return trigger_prefixes.CAPTURE + event
