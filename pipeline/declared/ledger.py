"""The ledger: the pipeline's own state, in schema ``migration`` of the target.

``quarantine`` and ``quarantine_values`` keep rejected rows whole: the first names a row and its
reasons, the second has one row per column with the value's SQLite storage class and its exact bytes
(text as stored, integers as decimal digits, reals as eight bytes big-endian IEEE 754).
``overrides`` keeps values in the same format that a person set in place of the source's.
``watermarks`` record up to where the source has been read; they are written together with the rows.
``conflicts`` holds values of rows that were changed in the target and left unchanged by a move.
``cascaded`` holds keys of rows that were deleted with their parent, or only lost it (the parent is
empty then), until the move of their own table. ``anki_intents`` records pending writes to Anki, and
the export before the last one. ``anki_source`` has one row: the label of the notes that belong to
this target, the profile of Anki that has them, and how many missing notes a person accepted.
``cutover`` is the history of each migration's state; the newest row is the present one. ``outbox``
holds keys of rows that the application wrote into the target since it was prepared for the
cut-over; NULL means the whole table. ``signed_off`` records who accepted that a quarantined row
stays behind, and why. ``checks`` holds the newest result of each check that a gate reads.
Each migration has its own rows, identified by a table's name or by the migration's name.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateTable

from pipeline.declared import functions
from pipeline.declared.rules import TableRules

SCHEMA = "migration"

metadata = sa.MetaData(schema=SCHEMA)


def _key(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in names]


def _since(name: str = "since") -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"))


quarantine = sa.Table(
    "quarantine",
    metadata,
    *_key("table_name", "row_id"),
    sa.Column("source_key", sa.Text),
    sa.Column("reasons", JSONB, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    _since(),
)

quarantine_values = sa.Table(
    "quarantine_values",
    metadata,
    *_key("table_name", "row_id", "column_name"),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("storage", sa.Text, nullable=False),
    sa.Column("value", sa.LargeBinary),
    sa.ForeignKeyConstraint(
        ["table_name", "row_id"],
        [quarantine.c.table_name, quarantine.c.row_id],
        ondelete="CASCADE",
    ),
)

conversions = sa.Table(
    "conversions",
    metadata,
    *_key("table_name", "source_key", "column_name"),
    sa.Column("storage", sa.Text, nullable=False),
    sa.Column("original", sa.Text),
    sa.Column("kept_as", sa.Text, nullable=False),
)

overrides = sa.Table(
    "overrides",
    metadata,
    *_key("table_name", "row_id", "column_name"),
    sa.Column("was_storage", sa.Text, nullable=False),
    sa.Column("was_value", sa.LargeBinary),
    sa.Column("storage", sa.Text, nullable=False),
    sa.Column("value", sa.LargeBinary),
    _since(),
)

watermarks = sa.Table(
    "watermarks",
    metadata,
    *_key("table_name"),
    sa.Column("newest", sa.DateTime(timezone=True)),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("rules", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text),
    sa.Column("change", sa.BigInteger),
    sa.Column("token", sa.Text),
    sa.Column("run_id", sa.Text, nullable=False),
    _since("at"),
)

conflicts = sa.Table(
    "conflicts",
    metadata,
    *_key("table_name", "source_key", "column_name"),
    sa.Column("source_value", sa.Text),
    sa.Column("target_value", sa.Text),
    _since(),
)

cascaded = sa.Table(
    "cascaded",
    metadata,
    *_key("table_name", "target_key"),
    sa.Column("parent", sa.Text, nullable=False),
)

anki_intents = sa.Table(
    "anki_intents",
    metadata,
    sa.Column("content_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("export_hash", sa.Text, primary_key=True),
    _since(),
    info=TableRules(migration="content").info,
)

anki_source = sa.Table(
    "anki_source",
    metadata,
    *_key("label"),
    sa.Column("profile", sa.Text),
    sa.Column("missing", sa.Integer, nullable=False),
    _since(),
    info=TableRules(migration="content").info,
)

cutover = sa.Table(
    "cutover",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("migration", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    _since("at"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("change", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    _since("at"),
)

signed_off = sa.Table(
    "signed_off",
    metadata,
    *_key("table_name", "row_id"),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("by_whom", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    _since("at"),
)

evidence = sa.Table(
    "evidence",
    metadata,
    *_key("run_id", "table_name"),
    _since("proven_at"),
    sa.Column("source_rows", sa.BigInteger, nullable=False),
    sa.Column("target_rows", sa.BigInteger, nullable=False),
    sa.Column("quarantined_rows", sa.BigInteger, nullable=False),
    sa.Column("digests", JSONB, nullable=False),
)

checks = sa.Table(
    "checks",
    metadata,
    *_key("subject", "name"),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("blocking", sa.Boolean, nullable=False),
    sa.Column("rules", sa.Text),
    sa.Column("verification", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run_id", sa.Text, nullable=False),
    _since("at"),
)
"""``subject`` is an asset; ``rules`` is the digest of the rules by which a plan was made;
``verification`` is true if committed rows were checked."""

PLANNED = "planned"
"""The result that says which rules the newest plan has used."""

CREATE_CHECKS = str(
    CreateTable(checks, if_not_exists=True).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
).strip()
"""Creates the table of check results."""

TAKE_TURNS = f"PERFORM pg_advisory_xact_lock({0x6C6564676572})"
"""Lets commands that change the ledger's tables at once wait for each other; "ledger" in hex."""


RENAMED_TABLES = (("mended", "overrides"),)
RENAMED_COLUMNS = (
    ("quarantine", "handle", "row_id"),
    ("quarantine_values", "handle", "row_id"),
    ("overrides", "handle", "row_id"),
    ("signed_off", "handle", "row_id"),
    ("watermarks", "seen", "fingerprint"),
)

OLD_FUNCTIONS_SCHEMA = "upkeep"
"""The name of ``functions.SCHEMA`` in earlier versions."""

_HAS_OLD_FUNCTIONS = f"""(to_regnamespace('{functions.SCHEMA}') IS NULL AND EXISTS (
    SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('{OLD_FUNCTIONS_SCHEMA}')
    AND starts_with(proname, 'stamp_') AND pronargs = 0 AND prosrc LIKE '%IF new *<> old THEN%'))"""
"""Whether the old schema exists and is ours: then it contains a function that sets a stamp."""

_OLD_COLUMNS = f"""(SELECT table_name, old, new
    FROM (VALUES {", ".join(map(str, RENAMED_COLUMNS))}) AS c (table_name, old, new)
    JOIN pg_attribute ON attrelid = to_regclass('migration.' || table_name) AND attname = old)"""
"""Columns that still have their old name."""

_LACKS_CHECKS = (
    "(to_regclass('migration.watermarks') IS NOT NULL AND to_regclass('migration.checks') IS NULL)"
)
"""Whether the results of checks are still in Dagster's tables only."""

_DAGSTER_CHECKS = """
      INSERT INTO migration.checks (subject, name, passed, blocking, run_id, at)
        SELECT DISTINCT ON (1, 2) asset_key::json ->> 0,
          regexp_replace(check_name, '^standing_', ''), execution_status = 'SUCCEEDED',
          coalesce(evaluation_event LIKE
            '%"severity": {"__enum__": "AssetCheckSeverity.ERROR"}%', true),
          run_id, coalesce(evaluation_event_timestamp AT TIME ZONE 'UTC', now())
        FROM dagster.asset_check_executions
        WHERE execution_status IN ('SUCCEEDED', 'FAILED') AND run_id IS NOT NULL
        ORDER BY 1, 2, evaluation_event_storage_id DESC NULLS LAST, id DESC;"""
"""Copies results. A check without a result was planned by a run that ended before. The versions
that recorded checks of ``verify`` under names with a prefix are included."""

_DAGSTER_PLANS = f"""
      INSERT INTO migration.checks (subject, name, passed, blocking, rules, run_id, at)
        SELECT DISTINCT ON (1) asset_key::json ->> 0, '{PLANNED}', true, true,
          substring(event FROM '"text": "([0-9a-f]{{64}})"}}, "label": "rules"'),
          run_id, coalesce(timestamp AT TIME ZONE 'UTC', now())
        FROM dagster.event_logs
        WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key LIKE '%plan"]'
          AND run_id IS NOT NULL
        ORDER BY 1, id DESC;"""

OUTDATED = f"""
SELECT {_HAS_OLD_FUNCTIONS} OR to_regclass('migration.mended') IS NOT NULL
  OR EXISTS {_OLD_COLUMNS} OR {_LACKS_CHECKS}
  OR (to_regclass('migration.cutover') IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass('migration.cutover') AND attname = 'migration'))
"""
"""Whether an older version created the ledger, or a backup of an older version was restored."""

UPDATE = f"""
ALTER TABLE IF EXISTS migration.cutover
  ADD COLUMN IF NOT EXISTS migration text NOT NULL DEFAULT 'content';
ALTER TABLE IF EXISTS migration.cutover ALTER COLUMN migration DROP DEFAULT;
DO $$
DECLARE renamed record;
BEGIN
  {TAKE_TURNS};
  IF {_HAS_OLD_FUNCTIONS} THEN
    ALTER SCHEMA {OLD_FUNCTIONS_SCHEMA} RENAME TO {functions.SCHEMA};
  END IF;
  IF to_regclass('migration.mended') IS NOT NULL THEN
    IF to_regclass('migration.overrides') IS NULL THEN
      ALTER TABLE migration.mended RENAME TO overrides;
      ALTER TABLE migration.overrides RENAME CONSTRAINT mended_pkey TO overrides_pkey;
    ELSE
      -- An older version has run since; both tables have the same columns, in the same order.
      -- Of two corrections of a value the later one counts.
      INSERT INTO migration.overrides AS kept SELECT * FROM migration.mended
        ON CONFLICT ON CONSTRAINT overrides_pkey DO UPDATE SET
          (was_storage, was_value, storage, value, since) = (excluded.was_storage,
           excluded.was_value, excluded.storage, excluded.value, excluded.since)
        WHERE excluded.since > kept.since;
      DROP TABLE migration.mended;
    END IF;
  END IF;
  FOR renamed IN SELECT * FROM {_OLD_COLUMNS} AS found
  LOOP
    EXECUTE format('ALTER TABLE migration.%I RENAME COLUMN %I TO %I',
      renamed.table_name, renamed.old, renamed.new);
  END LOOP;
  IF {_LACKS_CHECKS} THEN
    {CREATE_CHECKS};
    IF to_regclass('dagster.asset_check_executions') IS NOT NULL THEN{_DAGSTER_CHECKS}
    END IF;
    IF to_regclass('dagster.event_logs') IS NOT NULL THEN{_DAGSTER_PLANS}
    END IF;
  END IF;
END $$
"""
"""Rename tables, columns and the functions' schema; earlier cut-overs belong to ``content``. The
newest results of checks are copied from Dagster's tables, so that an update closes no gate."""


def migration_rows(table: sa.Table, migration: str, tables: Sequence[str]) -> str | None:
    """An SQL condition on a migration's rows of a ledger table; None if it has no rows there.

    Args:
        table: the ledger table.
        migration: the name of the migration.
        tables: names of the migration's tables.
    """
    for name in ("table_name", "subject"):
        if name in table.columns:
            return f"{name} IN ({', '.join(map(_literal, tables))})"
    if "migration" in table.columns:
        return f"migration = {_literal(migration)}"
    return "true" if TableRules.of(table).migration == migration else None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
