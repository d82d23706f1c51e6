"""Tests of what a role can do with a table: act as the role, try, and undo everything."""

from collections.abc import Collection, Iterator

import sqlalchemy as sa

from pipeline.core.findings import Finding
from pipeline.core.quoting import literal, quoted
from pipeline.core.server_errors import TRANSIENT_STATES
from pipeline.declared.access import ROLES, Privilege
from pipeline.mapping.row_key import RowKey
from pipeline.postgres.driver.refusals import SERVER_CLASSES
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.findings import RightDiffers
from pipeline.postgres.target import Target

_PROBES: dict[Privilege, str] = {
    "SELECT": "SELECT FROM {table} LIMIT 1",
    "INSERT": "INSERT INTO {table} SELECT * FROM {table} WHERE false",
    "UPDATE": "UPDATE {table} SET {key} = {key} WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
}
_BY_SERVER = (
    f"sqlstate IN ({', '.join(map(literal, sorted(TRANSIENT_STATES)))})"
    f" OR pg_catalog.left(sqlstate, 2) IN ({', '.join(map(literal, SERVER_CLASSES))})"
)
"""PL/pgSQL condition that the server, and neither rows nor functions, caused an error."""

_PROBED = "PS010"
"""The SQLSTATE that undoes a probe which no privilege stopped."""
ASSUMABLE_QUESTION = Question(
    "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1) AND pg_has_role(current_user,"
    " oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE"
    " 'MEMBER' END)",
    (ROLES,),
    lambda rows: sorted(name for (name,) in rows),
)


def differing(
    target: Target, table: sa.Table, declared: Collection[tuple[str, str]]
) -> Iterator[Finding]:
    """Act as each role that this user may assume, and compare what it can do.

    Args:
        declared: (role, privilege) of the table.
    """
    probes = [(r, p) for r in target.answer(ASSUMABLE_QUESTION) for p in _PROBES]
    if not probes:
        return
    name, key = f"public.{quoted(table.name)}", RowKey.of(table).sql
    tested = "\n".join(_probe(r, _PROBES[p].format(table=name, key=key)) for r, p in probes)
    target.run(_PROBING.format(probes=tested))
    letters = target.value("SELECT current_setting('pipeline.probed')")
    for (role, privilege), letter in zip(probes, letters, strict=True):
        may = letter == "t"
        if may != ((role, privilege) in declared):
            can = "can" if may else "cannot"
            yield RightDiffers(table.name, f"{role} {can} {privilege} when tested")


_PROBING = """
DO $probes$
DECLARE
  letters text := '';
BEGIN
{probes}
  PERFORM pg_catalog.set_config('pipeline.probed', letters, true);
END
$probes$
"""


def _probe(role: str, sql: str) -> str:
    """PL/pgSQL that adds t if a role may execute a statement and f if not, and undoes it."""
    return f"""
  BEGIN
    -- As in a session of that role, policies hide rows and raise no error.
    SET LOCAL row_security = on;
    SET LOCAL ROLE {quoted(role)};
    EXECUTE {literal(sql)};
    RAISE 'done' USING ERRCODE = '{_PROBED}';
  EXCEPTION
    WHEN insufficient_privilege THEN
      letters := letters || 'f';
    WHEN OTHERS THEN
      -- Other errors come from the rows or from a function, which the role has reached.
      IF {_BY_SERVER} THEN
        RAISE;
      END IF;
      letters := letters || 't';
  END;"""
