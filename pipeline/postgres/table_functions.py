"""A table's functions in ``pipeline_functions``, and the trigger that sets its stamp.

If an update changes a row but not its stamp, the trigger sets the stamp to the current time, at
least a microsecond later than before. Moves are exempt because they write the dates of the source.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from pipeline.core.quoting import literal, quoted
from pipeline.declared.access import ROLES
from pipeline.declared.functions import SCHEMA, Function, policy_functions, stamp_column
from pipeline.postgres.driver.statements import Question, Rows
from pipeline.postgres.session import MOVING
from pipeline.postgres.target import Target

_FUNCTION = """\
CREATE OR REPLACE FUNCTION {call} RETURNS {returns}
LANGUAGE plpgsql {kind} SET search_path = '' AS $body${body}$body$"""

_ASKED = "STABLE SECURITY DEFINER PARALLEL SAFE"

_EXISTING = """
SELECT prosrc, format_type(prorettype, NULL) AS returns, l.lanname::text, provolatile::text,
  prosecdef, proparallel::text, coalesce(array_to_string(proconfig, ', '), '') AS settings,
  (SELECT coalesce(string_agg(who, ', ' ORDER BY who), '') FROM (
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS who
    FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a
    WHERE a.grantee = 0 OR a.grantee::regrole::text = ANY($2)) AS granted) AS granted
FROM pg_proc JOIN pg_language AS l ON l.oid = prolang WHERE pg_proc.oid = to_regprocedure($1)
"""

TRIGGERS = """
SELECT tgname::text, pg_get_triggerdef(oid, true) || CASE tgenabled WHEN 'O' THEN ''
  WHEN 'D' THEN ', which is disabled' ELSE ', which fires when ' || tgenabled::text END
  AS definition FROM pg_trigger WHERE tgrelid = {oid} AND NOT tgisinternal
"""
"""Names of a table's triggers, and how they are defined."""


def table_functions(
    table: sa.Table, server_roles: Sequence[str] = ROLES
) -> dict[Function, tuple[str, ...]]:
    """The functions that a table needs, each with the roles that may execute it.

    Args:
        server_roles: roles that exist on the server; no policy is created for other roles.
    """
    asked = policy_functions(table).items()
    needed = {f: tuple(sorted(set(roles) & set(server_roles))) for f, roles in asked}
    found = {function: roles for function, roles in needed.items() if roles}
    column = stamp_column(table)
    return found if column is None else {_stamp(column): (), **found}


def functions_ddl(
    functions: dict[Function, tuple[str, ...]], server_roles: Sequence[str] = ROLES
) -> list[str]:
    """DDL of functions and of their schema; both may exist already."""
    everyone = ", ".join(["PUBLIC", *map(quoted, server_roles)])
    ddl = [
        f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
        f"REVOKE ALL ON SCHEMA {SCHEMA} FROM {everyone}",
    ]
    for function, roles in functions.items():
        ddl += [_create(function), f"REVOKE ALL ON FUNCTION {function.call} FROM {everyone}"]
        if roles:
            listed = ", ".join(map(quoted, roles))
            ddl.append(f"GRANT EXECUTE ON FUNCTION {function.call} TO {listed}")
    return ddl


def triggers_ddl(table: sa.Table) -> list[str]:
    """DDL of the triggers of a table; their functions exist already."""
    column = stamp_column(table)
    if column is None:
        return []
    stamp, name, trigger = quoted(column), quoted(table.name), quoted(f"stamp_{column}")
    return [
        f"CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {name} FOR EACH ROW"
        # Evaluated before the function is called, so it costs a move of many rows nothing.
        f" WHEN (old.{stamp} IS NOT DISTINCT FROM new.{stamp}"
        f" AND current_setting('{MOVING}', true) IS DISTINCT FROM 'on')"
        f" EXECUTE FUNCTION {_stamp(column).call}",
        f"ALTER TABLE {name} ENABLE TRIGGER {trigger}",
    ]


def apply(target: Target, table: sa.Table, server_roles: Sequence[str]) -> None:
    """Create the functions and triggers of an existing table that are missing or differ."""
    make_functions(target, table, server_roles)
    wanted = triggers_ddl(table)
    if wanted:
        existing = target.answer(_triggers_question(f"public.{quoted(table.name)}"))
        with twin(target, table):
            target.run(*wanted)
            declared = target.answer(_triggers_question(f"pg_temp.{quoted(table.name)}"))
        if any(existing.get(name) != definition for name, definition in declared.items()):
            target.run(*wanted)


def make_functions(target: Target, table: sa.Table, server_roles: Sequence[str]) -> None:
    """Create the functions of a table that are missing or differ."""
    needed = table_functions(table, server_roles)
    outdated = {function: needed[function] for function in differing(target, table, server_roles)}
    if outdated:
        target.run(*functions_ddl(outdated, server_roles))


def differing(target: Target, table: sa.Table, server_roles: Sequence[str]) -> dict[Function, bool]:
    """Functions that differ from the declaration; the values tell whether they exist."""
    needed = table_functions(table, server_roles)
    if not needed:
        return {}
    found: dict[Function, bool] = {}
    with target.prefetched(*map(_existing_question, needed)):
        for function, roles in needed.items():
            existing = target.answer(_existing_question(function))
            if existing != [_declared(function, roles)]:
                found[function] = bool(existing)
    return found


def questions(table: sa.Table) -> tuple[Question[Rows], ...]:
    """The questions of ``differing``, whatever roles the server has."""
    return tuple(map(_existing_question, table_functions(table)))


def _existing_question(function: Function) -> Question[Rows]:
    return Question(_EXISTING, (function.call, ROLES), lambda rows: rows)


@contextmanager
def twin(target: Target, table: sa.Table) -> Iterator[None]:
    """An empty temporary table with the columns of an existing one, rolled back at the end.

    Declared objects can be created on it and read back as PostgreSQL writes them, without a lock on
    the table itself. Names without a schema refer to it.
    """
    name = quoted(table.name)
    with target.rolled_back():
        target.defer("SET LOCAL search_path = pg_temp, public")
        target.defer(f"CREATE TEMPORARY TABLE {name} (LIKE public.{name})")
        yield


def _triggers_question(table: str) -> Question[dict[str, str]]:
    return Question(TRIGGERS.format(oid=f"to_regclass({literal(table)})"), (), dict)


def _stamp(column: str) -> Function:
    """One function per column name; PL/pgSQL assigns a named field at no cost."""
    name = quoted(column)
    body = f"""
  -- All bytes are compared, because not every type knows equality.
  IF new *<> old THEN
    new.{name} := greatest(pg_catalog.clock_timestamp(), old.{name} + interval '1 microsecond');
  END IF;
  RETURN new;
"""
    return Function(f"stamp_{column}", "trigger", body, asked=False)


def _create(function: Function) -> str:
    return _FUNCTION.format(
        call=function.call,
        returns=function.returns,
        kind=_ASKED if function.asked else "",
        body=_body(function),
    )


def _body(function: Function) -> str:
    return f"\nBEGIN{function.body}END\n"


def _declared(function: Function, roles: Sequence[str]) -> tuple[object, ...]:
    kind = ("s", True, "s") if function.asked else ("v", False, "u")
    granted = ", ".join(roles)
    return _body(function), function.returns, "plpgsql", *kind, 'search_path=""', granted
