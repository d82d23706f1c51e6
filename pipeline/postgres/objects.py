"""What belongs to a table beside itself: functions in ``upkeep``, and the trigger that stamps.

A stamp is set to the time of the clock, at least a microsecond later than it was, when an update
changes the row and leaves the stamp alone. A move writes the source's dates, so it is left out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.declared.access import ROLES
from pipeline.declared.objects import SCHEMA, Function, asked_by, stamp_of
from pipeline.postgres.session import MOVING
from pipeline.postgres.target import Target

_FUNCTION = """\
CREATE OR REPLACE FUNCTION {call} RETURNS {returns}
LANGUAGE plpgsql {kind} SET search_path = '' AS $body${body}$body$"""

_ASKED = "STABLE SECURITY DEFINER PARALLEL SAFE"

_THERE = """
SELECT prosrc, format_type(prorettype, NULL), l.lanname::text, provolatile::text,
  prosecdef, proparallel::text, coalesce(array_to_string(proconfig, ', '), ''),
  (SELECT coalesce(string_agg(who, ', ' ORDER BY who), '') FROM (
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS who
    FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a
    WHERE a.grantee = 0 OR a.grantee::regrole::text = ANY($2)) AS granted)
FROM pg_proc JOIN pg_language AS l ON l.oid = prolang WHERE pg_proc.oid = to_regprocedure($1)
"""

TRIGGERS = """
SELECT tgname::text, pg_get_triggerdef(oid, true) || CASE tgenabled WHEN 'O' THEN ''
  WHEN 'D' THEN ', which is disabled' ELSE ', which fires when ' || tgenabled::text END
  FROM pg_trigger WHERE tgrelid = {oid} AND NOT tgisinternal
"""
"""Names of a table's triggers, and how they are defined."""


def functions_of(table: sa.Table, there: Sequence[str] = ROLES) -> dict[Function, tuple[str, ...]]:
    """The functions that a table needs, each with the roles that may be answered by it.

    Args:
        table: the declared table.
        there: roles that the server has; without any of them no policy is made.
    """
    asked = asked_by(table).items()
    needed = {f: tuple(sorted(set(roles) & set(there))) for f, roles in asked}
    found = {function: roles for function, roles in needed.items() if roles}
    column = stamp_of(table)
    return found if column is None else {_stamp(column): (), **found}


def functions_ddl(
    functions: dict[Function, tuple[str, ...]], there: Sequence[str] = ROLES
) -> list[str]:
    """DDL of functions and of their schema, which may be there already."""
    who = ", ".join(["PUBLIC", *map(quoted, there)])
    made = [f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}", f"REVOKE ALL ON SCHEMA {SCHEMA} FROM {who}"]
    for function, roles in functions.items():
        made += [_create(function), f"REVOKE ALL ON FUNCTION {function.call} FROM {who}"]
        if roles:
            listed = ", ".join(map(quoted, roles))
            made.append(f"GRANT EXECUTE ON FUNCTION {function.call} TO {listed}")
    return made


def triggers_ddl(table: sa.Table) -> list[str]:
    """DDL of the triggers of a table; their functions are there."""
    column = stamp_of(table)
    if column is None:
        return []
    stamp, name, trigger = quoted(column), quoted(table.name), quoted(f"stamp_{column}")
    return [
        f"CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {name} FOR EACH ROW"
        # Asked before the function is called, so a move that updates many rows pays nothing.
        f" WHEN (old.{stamp} IS NOT DISTINCT FROM new.{stamp}"
        f" AND current_setting('{MOVING}', true) IS DISTINCT FROM 'on')"
        f" EXECUTE FUNCTION {_stamp(column).call}",
        f"ALTER TABLE {name} ENABLE TRIGGER {trigger}",
    ]


def apply(target: Target, table: sa.Table, there: Sequence[str]) -> None:
    """Make functions and triggers of a table that is there, as far as they are missing or other."""
    make_functions(target, table, there)
    wanted = triggers_ddl(table)
    if wanted:
        held = _triggers(target, f"public.{quoted(table.name)}")
        with twin(target, table):
            target.run(*wanted)
            declared = _triggers(target, f"pg_temp.{quoted(table.name)}")
        if any(held.get(name) != definition for name, definition in declared.items()):
            target.run(*wanted)


def make_functions(target: Target, table: sa.Table, there: Sequence[str]) -> None:
    """Make the functions that a table needs, as far as they are missing or other."""
    needed = functions_of(table, there)
    wrong = {function: needed[function] for function in differing(target, table, there)}
    if wrong:
        target.run(*functions_ddl(wrong, there))


def differing(target: Target, table: sa.Table, there: Sequence[str]) -> dict[Function, bool]:
    """Functions that a table needs and that are not as declared, with whether there is one."""
    found: dict[Function, bool] = {}
    for function, roles in functions_of(table, there).items():
        held = target.rows(_THERE, (function.call, list(ROLES)))
        if held != [_declared(function, roles)]:
            found[function] = bool(held)
    return found


@contextmanager
def twin(target: Target, table: sa.Table) -> Iterator[None]:
    """An empty temporary table with the columns of one that is there, undone at the end.

    What is declared can be made on it and read back in PostgreSQL's own words, without a lock on
    the table itself; names without a schema lead to it.
    """
    name = quoted(table.name)
    with target.undone():
        target.run(
            "SET LOCAL search_path = pg_temp, public",
            f"CREATE TEMPORARY TABLE {name} (LIKE public.{name})",
        )
        yield


def _triggers(target: Target, table: str) -> dict[str, str]:
    oid = target.value("SELECT to_regclass($1)::oid::bigint", (table,))
    return dict(target.rows(TRIGGERS.format(oid=oid)))


def _stamp(column: str) -> Function:
    """One for each name of a column: PL/pgSQL writes a named field at no cost."""
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
