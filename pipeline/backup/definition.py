"""The DDL statements that recreate a PostgreSQL table, generated from the server's catalog.

Names are written without a schema, so the statements create the table in whichever schema is first
in ``search_path``. Two tables have the same definition exactly when their statements are equal.
"""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.declared import feed, functions, trigger_prefixes

PHASES = ("functions", "table", "keys", "links", "triggers", "rights")
"""In order of execution: functions of ours that triggers and policies call; columns and sequences;
keys, constraints and indexes, built after the rows are loaded; foreign keys, which need all tables,
and constraints that are NOT VALID; triggers; and privileges."""

POLICY = "CREATE POLICY "
"""The prefix of policy statements. Policies may read other tables, which must exist first."""

IN_PLACE = ("table", "keys", "rights")
"""Phases that must be equal for rows to be replaced in the existing table."""

_CALLED = f"""
  SELECT DISTINCT p.oid, p.oid::regprocedure::text AS signature, p.proacl, p.proowner, n.nspname
  FROM (
    SELECT tgfoid AS oid FROM pg_trigger
    WHERE tgrelid = to_regclass(%(table)s) AND NOT tgisinternal
      AND NOT starts_with(tgname, '{trigger_prefixes.FEED}')
    UNION SELECT d.refobjid FROM pg_policy AS y JOIN pg_depend AS d ON d.objid = y.oid
    WHERE y.polrelid = to_regclass(%(table)s) AND d.classid = 'pg_policy'::regclass
      AND d.refclassid = 'pg_proc'::regclass
  ) AS used JOIN pg_proc AS p USING (oid) JOIN pg_namespace AS n ON n.oid = p.pronamespace
  WHERE n.nspname IN ('{functions.SCHEMA}', '{feed.SCHEMA}')
"""
"""Functions in this project's schemas that a table's triggers and policies call."""

_DEFINITION = (
    """
WITH t AS (SELECT * FROM pg_class WHERE oid = to_regclass(%(table)s)),
own AS (
  SELECT c.oid, c.relname, c.relpersistence, c.relacl, c.relowner, d.deptype, a.attname, a.attnum,
    format('INCREMENT %%s MINVALUE %%s MAXVALUE %%s START %%s CACHE %%s%%s', s.seqincrement,
      s.seqmin, s.seqmax, s.seqstart, s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' END) AS rule,
    format_type(s.seqtypid, NULL) AS kind
  FROM t JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
  JOIN pg_sequence AS s ON s.seqrelid = c.oid
  JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
), col AS (
  SELECT a.*, y.typstorage, y.typcollation, pg_get_expr(d.adbin, d.adrelid, true) AS expression
  FROM t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type AS y ON y.oid = a.atttypid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = t.oid AND d.adnum = a.attnum
), granted AS (
  SELECT 1 AS kind, format('%%s ON %%I', g.privilege_type, relname) AS what, g.grantee,
    g.is_grantable FROM t, aclexplode(relacl) AS g WHERE g.grantee <> relowner
  UNION ALL SELECT 2, format('%%s (%%I) ON %%I', g.privilege_type, attname, relname), g.grantee,
    g.is_grantable FROM t, col, aclexplode(attacl) AS g WHERE g.grantee <> relowner
  UNION ALL SELECT 3, format('%%s ON SEQUENCE %%I', g.privilege_type, relname), g.grantee,
    g.is_grantable FROM own, aclexplode(relacl) AS g WHERE g.grantee <> relowner
), called AS ({CALLED})
SELECT phase, statement FROM (
  SELECT 'table' AS phase, 0 AS place, NULL AS name,
    format('CREATE EXTENSION IF NOT EXISTS %%I WITH SCHEMA %%I', extname, nspname) AS statement
  FROM (
    SELECT DISTINCT e.extname, n.nspname FROM t JOIN pg_index AS i ON i.indrelid = t.oid
    JOIN pg_opclass AS o ON o.oid = ANY(i.indclass)
    JOIN pg_depend AS d ON d.classid = 'pg_opclass'::regclass AND d.objid = o.oid
      AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    JOIN pg_extension AS e ON e.oid = d.refobjid JOIN pg_namespace AS n ON n.oid = e.extnamespace
  ) AS needed
  UNION ALL SELECT DISTINCT 'functions', 1, nspname,
    format('CREATE SCHEMA IF NOT EXISTS %%I', nspname) FROM called
  UNION ALL SELECT 'functions', 2, signature, pg_get_functiondef(oid) FROM called
  UNION ALL SELECT 'functions', 3, signature, format('REVOKE ALL ON FUNCTION %%s FROM PUBLIC',
    signature) FROM called
  UNION ALL SELECT 'functions', 4, signature, format('GRANT EXECUTE ON FUNCTION %%s TO %%s',
    signature, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END)
    FROM called, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS g
    WHERE g.grantee <> proowner
  UNION ALL SELECT 'table', 1, relname,
    format('CREATE %%sSEQUENCE %%I AS %%s %%s',
    CASE relpersistence WHEN 'u' THEN 'UNLOGGED ' END, relname, kind, rule)
    FROM own WHERE deptype = 'a'
  UNION ALL SELECT 'table', 2, NULL, format('CREATE %%sTABLE %%I (%%s)%%s',
    CASE t.relpersistence WHEN 'u' THEN 'UNLOGGED ' END, relname,
    (SELECT string_agg(concat(quote_ident(col.attname), ' ', format_type(atttypid, atttypmod),
      CASE WHEN attcollation <> typcollation THEN
        (SELECT format(' COLLATE %%I.%%I', nspname, collname) FROM pg_collation AS c
          JOIN pg_namespace AS n ON n.oid = collnamespace WHERE c.oid = attcollation) END,
      CASE WHEN attidentity <> '' THEN (SELECT
        format(' GENERATED %%s AS IDENTITY (SEQUENCE NAME %%I %%s)',
          CASE attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, own.relname, own.rule)
          FROM own WHERE own.attnum = col.attnum AND own.deptype = 'i')
        WHEN attgenerated <> '' THEN format(' GENERATED ALWAYS AS (%%s) %%s', expression,
          CASE attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END)
        ELSE ' DEFAULT ' || expression END,
      CASE WHEN attnotnull THEN ' NOT NULL' END), ', ' ORDER BY attnum) FROM col),
    ' WITH (' || array_to_string(reloptions, ', ') || ')') FROM t
  UNION ALL SELECT 'table', 3, own.relname, format('ALTER SEQUENCE %%I OWNED BY %%I.%%I',
    own.relname, t.relname, attname) FROM own, t WHERE deptype = 'a'
  UNION ALL SELECT 'table', 4, attname, format('ALTER TABLE %%I ALTER COLUMN %%I SET STORAGE %%s',
    relname, attname, CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
    WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) FROM t, col WHERE attstorage <> typstorage
  UNION ALL SELECT 'table', 5, attname, format('ALTER TABLE %%I ALTER COLUMN %%I SET COMPRESSION'
    ' %%s', relname, attname, CASE attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END)
    FROM t, col WHERE attcompression <> ''
  UNION ALL SELECT 'table', 6, attname, format('COMMENT ON COLUMN %%I.%%I IS %%L', relname, attname,
    col_description(t.oid, attnum)) FROM t, col WHERE col_description(t.oid, attnum) IS NOT NULL
  UNION ALL SELECT 'table', 7, NULL, format('COMMENT ON TABLE %%I IS %%L', relname,
    obj_description(oid, 'pg_class')) FROM t WHERE obj_description(oid, 'pg_class') IS NOT NULL
  UNION ALL SELECT CASE WHEN contype = 'f' OR NOT convalidated THEN 'links' ELSE 'keys' END, 1,
    CASE contype WHEN 'p' THEN '0' WHEN 'u' THEN '1' ELSE '2' END || conname,
    format('ALTER TABLE %%I ADD CONSTRAINT %%I %%s', relname, conname,
      pg_get_constraintdef(c.oid, true))
    FROM t JOIN pg_constraint AS c ON conrelid = t.oid AND contype IN ('p', 'u', 'c', 'x', 'f')
  UNION ALL SELECT 'keys', 2, indexrelid::regclass::text, pg_get_indexdef(indexrelid, 0, true)
    FROM t JOIN pg_index ON indrelid = t.oid
    WHERE NOT EXISTS (SELECT FROM pg_constraint
      WHERE conrelid = t.oid AND conindid = indexrelid AND contype IN ('p', 'u', 'x'))
  UNION ALL SELECT 'keys', 3, NULL, format('ALTER TABLE %%I REPLICA IDENTITY %%s', relname,
    CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE
      (SELECT format('USING INDEX %%I', i.relname) FROM pg_index JOIN pg_class AS i
        ON i.oid = indexrelid WHERE indrelid = t.oid AND indisreplident) END)
    FROM t WHERE relreplident <> 'd'
  UNION ALL SELECT 'triggers', 1, tgname, pg_get_triggerdef(g.oid, true)
    FROM t JOIN pg_trigger AS g ON tgrelid = t.oid AND NOT tgisinternal
      AND NOT starts_with(tgname, '{CAPTURE}') AND NOT starts_with(tgname, '{FEED}')
  UNION ALL SELECT 'triggers', 2, tgname, format('ALTER TABLE %%I %%s TRIGGER %%I', relname,
    CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
    tgname) FROM t JOIN pg_trigger ON tgrelid = t.oid AND NOT tgisinternal AND tgenabled <> 'O'
      AND NOT starts_with(tgname, '{CAPTURE}') AND NOT starts_with(tgname, '{FEED}')
  UNION ALL SELECT 'rights', 1, NULL, format('ALTER TABLE %%I ENABLE ROW LEVEL SECURITY', relname)
    FROM t WHERE relrowsecurity
  UNION ALL SELECT 'rights', 2, NULL, format('ALTER TABLE %%I FORCE ROW LEVEL SECURITY', relname)
    FROM t WHERE relforcerowsecurity
  UNION ALL SELECT 'rights', 3, polname, concat(
    format('CREATE POLICY %%I ON %%I AS %%s FOR %%s TO %%s', polname, relname,
      CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
      CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
      (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END,
        ', ' ORDER BY role) FROM unnest(polroles) AS role)),
    ' USING (' || pg_get_expr(polqual, polrelid, true) || ')',
    ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid, true) || ')')
    FROM t JOIN pg_policy ON polrelid = t.oid
  UNION ALL SELECT 'rights', 3 + kind, what, format('GRANT %%s TO %%s%%s', what,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) FROM granted
) AS statements ORDER BY phase, place, name COLLATE "C", statement COLLATE "C"
""".replace("{CAPTURE}", trigger_prefixes.CAPTURE)
    .replace("{FEED}", trigger_prefixes.FEED)
    .replace("{CALLED}", _CALLED)
)
"""Leaves out the capture triggers, which belong to the state of the migration, and the triggers of
the realtime feed."""

_REVOKE_TABLE_RIGHTS = """
SELECT DISTINCT format('REVOKE ALL ON %%s%%s FROM %%s',
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' END, c.oid::regclass,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END)
  FROM pg_class AS c, aclexplode(c.relacl) AS g WHERE g.grantee <> c.relowner AND
    (c.oid = to_regclass(%(table)s) OR c.relkind = 'S' AND c.oid IN
      (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass
        AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%(table)s)))
"""

_REVOKE_FUNCTION_RIGHTS = f"""
SELECT DISTINCT format('REVOKE ALL ON FUNCTION %%s FROM %%I', signature,
    pg_get_userbyid(g.grantee))
  FROM ({_CALLED}) AS called, aclexplode(proacl) AS g WHERE g.grantee NOT IN (0, proowner)
"""

_PUBLICATIONS = """
SELECT pubname::text, format('ALTER PUBLICATION %%I ADD TABLE %%I%%s%%s', pubname, relname,
    ' (' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
      WHERE attrelid = prrelid AND attnum = ANY(prattrs)) || ')',
    ' WHERE (' || pg_get_expr(prqual, prrelid, true) || ')')
  FROM pg_publication_rel JOIN pg_publication AS p ON p.oid = prpubid
  JOIN pg_class AS c ON c.oid = prrelid WHERE prrelid = to_regclass(%(table)s) ORDER BY 1
"""

_CAST = re.compile(
    r"::(character varying|double precision|time(stamp)?(\(\d\))? with(out)? time zone"
    r"|(\w+\.)?\w+)(\(\d+(,\d+)?\))?(\[\])*"
)

Definition = dict[str, tuple[str, ...]]
"""Statements by phase, in order of execution."""


def set_search_path(*schemas: str) -> str:
    """The statement that sets ``search_path`` to these schemas until the transaction ends.

    ``pg_temp`` is listed last; unlisted, it would be searched first.
    """
    return f"SET LOCAL search_path = {', '.join(dict.fromkeys((*schemas, 'pg_temp')))}"


def define(cursor: Any, table: str) -> Definition:
    """The statements that recreate a table; its schema must be first in ``search_path``."""
    cursor.execute(_DEFINITION, {"table": table})
    found: dict[str, list[str]] = {phase: [] for phase in PHASES}
    for phase, statement in cursor.fetchall():
        found[phase].append(statement)
    return {phase: tuple(statements) for phase, statements in found.items()}


def same(one: Definition, other: Definition, *, phases: Iterable[str] = PHASES) -> bool:
    """Whether two definitions create the same table; casts in expressions are ignored.

    PostgreSQL changes casts when it stores an expression: ``ARRAY['a'::varchar]::text[]`` becomes
    ``ARRAY['a'::varchar::text]``.
    """
    return all(
        # Backups of older versions may lack a phase.
        without_casts(one.get(phase, ())) == without_casts(other.get(phase, ()))
        for phase in phases
    )


def without_casts(statements: Iterable[str]) -> list[str]:
    """Statements without casts."""
    return [_CAST.sub("", statement) for statement in statements]


def publications(cursor: Any, table: str) -> dict[str, str]:
    """Publications that list a table, each with the statement that adds the table to it.

    The table's schema must be first in ``search_path``.
    """
    cursor.execute(_PUBLICATIONS, {"table": table})
    return dict(cursor.fetchall())


def revoke_table_rights(cursor: Any, table: str) -> None:
    """Revoke the privileges on a new table that default privileges granted to other roles."""
    _execute_each(cursor, _REVOKE_TABLE_RIGHTS, table)


def revoke_function_rights(cursor: Any, table: str) -> None:
    """Revoke EXECUTE on a table's functions from all roles except their owner and PUBLIC."""
    _execute_each(cursor, _REVOKE_FUNCTION_RIGHTS, table)


def _execute_each(cursor: Any, sql: str, table: str) -> None:
    cursor.execute(sql, {"table": table})
    for (statement,) in cursor.fetchall():
        cursor.execute(statement)
