"""What others have added to a table of a copy, which would be lost if the table is made anew."""

from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import ShapeError
from pipeline.postgres.target import Target

_OBJECTS = """
WITH t AS (SELECT to_regclass($1) AS oid)
SELECT 'trigger ' || tgname FROM pg_trigger, t WHERE tgrelid = t.oid AND NOT tgisinternal
UNION ALL SELECT 'policy ' || polname FROM pg_policy, t WHERE polrelid = t.oid
UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite, t WHERE ev_class = t.oid
UNION ALL SELECT DISTINCT 'view ' || r.ev_class::regclass::text FROM t, pg_depend AS d
  JOIN pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
  WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND r.ev_class <> t.oid
UNION ALL SELECT 'publication ' || p.pubname FROM t, pg_publication_rel AS m
  JOIN pg_publication AS p ON p.oid = m.prpubid WHERE m.prrelid = t.oid
UNION ALL SELECT 'column ' || a.attname FROM t, pg_attribute AS a
  WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname <> ALL (SELECT jsonb_object_keys(e.digests) FROM migration.evidence AS e
    JOIN migration.watermarks AS w USING (run_id, table_name) WHERE w.table_name = $2)
  AND EXISTS (SELECT FROM migration.evidence AS e
    JOIN migration.watermarks AS w USING (run_id, table_name)
    WHERE w.table_name = $2 AND e.digests <> '{}')
"""
_RIGHTS = """
SELECT format('GRANT %s ON %s TO %s%s', string_agg(a.privilege_type, ', '), c.oid::regclass,
  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.oid = to_regclass($1) AND a.grantee <> c.relowner
GROUP BY c.oid, a.grantee, a.is_grantable
UNION ALL SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY', c.oid::regclass, does)
FROM pg_class AS c, LATERAL (VALUES ('ENABLE', c.relrowsecurity), ('FORCE', c.relforcerowsecurity))
  AS f(does, wanted) WHERE c.oid = to_regclass($1) AND wanted
"""


def require_none(target: Target, table: CopiedTable) -> None:
    """Refuse to drop a table to which others have added something.

    Raises:
        ShapeError: names what would be lost; nothing was changed.
    """
    found = [name for (name,) in target.rows(_OBJECTS, (table.place, table.label))]
    if found:
        raise ShapeError(
            f"{table.label} has other columns or constraints in the source now, and has to be made"
            f" anew, but something else would be lost with it: {', '.join(found)}",
            remedy="Drop that first, and create it again after the copy; or copy to another schema",
        )


def rights(target: Target, table: CopiedTable) -> list[str]:
    """Statements that give a table that was made anew the rights of the earlier one."""
    return [statement for (statement,) in target.rows(_RIGHTS, (table.place,))]
