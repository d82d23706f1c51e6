"""Privileges on a moved table: declared GRANTs and row level security, and a test as each role.

Roles that the server lacks are skipped. On a server with none of these roles, nothing is granted or
revoked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.findings import Finding
from pipeline.core.quoting import quoted
from pipeline.declared import feed, ledger
from pipeline.declared.access import ALL, ROLES, Access, of_table
from pipeline.declared.functions import SCHEMA as FUNCTIONS_SCHEMA
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres import role_probes, table_functions
from pipeline.postgres.driver.statements import Question, single
from pipeline.postgres.findings import Exposed, RightDiffers
from pipeline.postgres.target import Target

HIDDEN = (ledger.SCHEMA, "dagster")
"""Schemas that API requests must not reach."""

_CLIENT_ROLES = ("anon", "authenticated")
"""Roles of end users. They have no access to the feed; the service role does."""

_HELD = """
SELECT json_build_object(
  'secured', relrowsecurity,
  'granted', (SELECT coalesce(json_agg(DISTINCT ARRAY[coalesce(r.rolname, 'PUBLIC'),
      a.privilege_type]), '[]')
    FROM (SELECT (aclexplode(relacl)).* UNION ALL SELECT (aclexplode(attacl)).*
      FROM pg_attribute WHERE attrelid = c.oid) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE a.grantee = 0 OR r.rolname = ANY($2)),
  'sequence', (SELECT coalesce(json_agg(DISTINCT ARRAY[coalesce(r.rolname, 'PUBLIC'),
      a.privilege_type]), '[]')
    FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
    CROSS JOIN aclexplode(s.relacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE d.refobjid = c.oid AND d.deptype IN ('a', 'i')
      AND (a.grantee = 0 OR r.rolname = ANY($2))),
  'policies', (SELECT coalesce(json_agg(ARRAY[policyname::text, permissive, cmd,
      array_to_string(roles, ', '), qual, with_check]), '[]')
    FROM pg_policies WHERE (schemaname, tablename) = (c.relnamespace::regnamespace::text, relname))
) AS rights FROM pg_class AS c WHERE oid = to_regclass($1)
"""


@dataclass(frozen=True)
class Rights:
    """The privileges on a table.

    Attributes:
        granted: (role, privilege) of the table.
        sequence: (role, privilege) of the sequence of its key.
        policies: descriptions of its policies.
    """

    secured: bool
    granted: frozenset[tuple[str, str]]
    sequence: frozenset[tuple[str, str]]
    policies: frozenset[str]


def roles(target: Target) -> list[str]:
    """The Supabase roles that exist on the server."""
    return target.answer(ROLES_QUESTION)


ROLES_QUESTION = Question(
    "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)",
    (ROLES,),
    lambda rows: sorted(name for (name,) in rows),
)


def apply(target: Target, mapping: TableMapping, server_roles: Sequence[str]) -> None:
    """Set the declared privileges on an existing table, unless they are already set."""
    if server_roles and _held(target, mapping.table) != _declared(
        target, mapping.table, server_roles
    ):
        names = target.rows(
            "SELECT polname::text FROM pg_policy WHERE polrelid = to_regclass($1)",
            (_name(mapping.table),),
        )
        target.run(*statements(mapping.table, server_roles, replaced=[name for (name,) in names]))


def hide(target: Target) -> None:
    """Revoke all access to the pipeline's own schemas."""
    server_roles = roles(target)
    if not server_roles:
        return
    there = target.rows("SELECT nspname::text FROM pg_namespace WHERE nspname = ANY($1)", (HIDDEN,))
    for (schema,) in sorted(there):
        target.run(*hiding(schema, server_roles))


def hiding(schema: str, server_roles: Sequence[str] = ROLES) -> list[str]:
    """DDL that revokes all access of these roles to a schema and its contents."""
    who = ", ".join(["PUBLIC", *map(quoted, server_roles)])
    return [
        f"REVOKE ALL ON SCHEMA {schema} FROM {who}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {who}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {who}",
    ]


def statements(
    table: sa.Table, server_roles: Sequence[str] = ROLES, *, replaced: Sequence[str] = ()
) -> list[str]:
    """DDL that grants the declared privileges and revokes all others.

    Args:
        table: the table; the sequence of its key has the name that SERIAL gives it.
    """
    name, who = quoted(table.name), ", ".join(["PUBLIC", *map(quoted, server_roles)])
    made = [f"REVOKE ALL ON TABLE {name} FROM {who}"]
    made += [f"DROP POLICY {quoted(policy)} ON {name}" for policy in sorted(replaced)]
    sequence = _sequence(table)
    if sequence:
        made.append(f"REVOKE ALL ON SEQUENCE {sequence} FROM {who}")
    made.append(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    for access in _of(table, server_roles):
        role = quoted(access.role)
        made.append(f"GRANT {', '.join(access.privileges)} ON TABLE {name} TO {role}")
        if sequence and "INSERT" in access.privileges:
            made.append(f"GRANT USAGE, SELECT ON SEQUENCE {sequence} TO {role}")
        made.append(_policy_ddl(table, access))
    return made


def questions(mapping: TableMapping) -> tuple[Question[Any], ...]:
    """The questions of ``check`` about the table and the roles."""
    return ROLES_QUESTION, role_probes.ASSUMABLE_QUESTION, _held_question(mapping.table)


def check(target: Target, mapping: TableMapping) -> tuple[Sequence[Finding], dict[str, int]]:
    """Rights are as declared, and each role is let in and kept out as they say.

    Args:
        target: a session within a transaction; it may act as the roles.
    """
    there = roles(target)
    if not there:
        return (), {"roles": 0}
    table = mapping.table
    held, declared = _held(target, table), _declared(target, table, there)
    findings = [
        *_differing(table, held, declared),
        *role_probes.differing(target, table, declared.granted),
    ]
    figures = {"roles": len(there), "rights": len(held.granted)}
    return findings, figures


def exposed(target: Target) -> list[Finding]:
    """Schemas of the pipeline that requests may reach, by a privilege or by the API's settings."""
    hidden = (*HIDDEN, FUNCTIONS_SCHEMA)
    usable = target.rows(
        "SELECT n.nspname::text, r.rolname::text FROM pg_namespace AS n CROSS JOIN pg_roles AS r"
        " WHERE (n.nspname = ANY($1) AND r.rolname = ANY($2)"
        " OR n.nspname = $3 AND r.rolname = ANY($4))"
        " AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1, 2",
        (hidden, ROLES, feed.SCHEMA, _CLIENT_ROLES),
    )
    found: list[Finding] = [Exposed(schema, f"{role} may use it") for schema, role in usable]
    served = target.rows(
        "SELECT trim(split_part(c, '=', 2)) FROM pg_db_role_setting, unnest(setconfig) AS c"
        " WHERE c LIKE 'pgrst.db_schemas=%'"
    )
    for (listed,) in served:
        names = {name.strip(' "') for name in listed.split(",")}
        found += [
            Exposed(schema, "the API serves it")
            for schema in (*hidden, feed.SCHEMA)
            if schema in names
        ]
    return found


def _differing(table: sa.Table, held: Rights, declared: Rights) -> Iterator[Finding]:
    if not held.secured:
        yield RightDiffers(table.name, "row level security is off")
    for role, privilege in sorted(held.granted - declared.granted):
        yield RightDiffers(table.name, f"{role} has {privilege}, which is not declared")
    for role, privilege in sorted(declared.granted - held.granted):
        yield RightDiffers(table.name, f"{role} lacks {privilege}")
    for role, privilege in sorted(held.sequence ^ declared.sequence):
        has = "has" if (role, privilege) in held.sequence else "lacks"
        yield RightDiffers(table.name, f"{role} {has} {privilege} of its sequence")
    for name in sorted(held.policies ^ declared.policies):
        undeclared = name in held.policies
        yield RightDiffers(
            table.name,
            f"policy {name} is {'not declared' if undeclared else 'missing or different'}",
        )


def _held(target: Target, table: sa.Table) -> Rights:
    found = target.answer(_held_question(table))
    known = set(ALL)
    return Rights(
        found["secured"],
        frozenset((role, right) for role, right in found["granted"] if right in known),
        frozenset((role, right) for role, right in found["sequence"]),
        frozenset(_description(*policy) for policy in found["policies"]),
    )


def _held_question(table: sa.Table) -> Question[dict[str, Any]]:
    return Question(_HELD, (_name(table), ROLES), single)


def _declared(target: Target, table: sa.Table, server_roles: Sequence[str]) -> Rights:
    accesses = _of(table, server_roles)
    writers = [access.role for access in accesses if "INSERT" in access.privileges]
    conditions = _conditions(target, table, accesses)
    return Rights(
        True,
        frozenset((access.role, right) for access in accesses for right in access.privileges),
        frozenset((role, right) for role in writers for right in ("USAGE", "SELECT"))
        if _sequence(table)
        else frozenset(),
        frozenset(
            _description(
                _policy(access),
                "PERMISSIVE",
                _command(access),
                access.role,
                rows := conditions.get(_policy(access), "true"),
                rows if _command(access) == "ALL" else None,
            )
            for access in accesses
        ),
    )


def _conditions(target: Target, table: sa.Table, accesses: Sequence[Access]) -> dict[str, str]:
    """The conditions of declared policies as PostgreSQL writes them, by name."""
    some = [access for access in accesses if access.rows is not None]
    if not some:
        return {}
    with target.rolled_back():
        # The schema check reports functions that differ from the declaration.
        table_functions.make_functions(target, table, [access.role for access in accesses])
        with table_functions.twin(target, table):
            target.run(*(_policy_ddl(table, access) for access in some))
            return dict(
                target.rows(
                    "SELECT polname::text, pg_get_expr(polqual, polrelid) FROM pg_policy"
                    " WHERE polrelid = to_regclass($1)",
                    (f"pg_temp.{quoted(table.name)}",),
                )
            )


def _description(
    name: str, kind: str, command: str, who: str, rows: str | None, written: str | None
) -> str:
    """Describe a policy; descriptions are equal only if the policies are."""
    only = "" if kind == "PERMISSIVE" else f"{kind} "
    return f"{name} ({only}{command} TO {who}: {rows}{'' if written is None else f'; {written}'})"


def _of(table: sa.Table, server_roles: Sequence[str]) -> list[Access]:
    return [access for access in of_table(table) if access.role in server_roles]


def _policy(access: Access) -> str:
    return f"{access.role} may {'read' if _command(access) == 'SELECT' else 'write'}"


def _policy_ddl(table: sa.Table, access: Access) -> str:
    rows, command = access.rows or "true", _command(access)
    return (
        f"CREATE POLICY {quoted(_policy(access))} ON {quoted(table.name)} FOR {command}"
        f" TO {quoted(access.role)} USING ({rows}){f' WITH CHECK ({rows})' * (command == 'ALL')}"
    )


def _command(access: Access) -> str:
    return "SELECT" if access.privileges == ("SELECT",) else "ALL"


def _sequence(table: sa.Table) -> str | None:
    key = RowKey.of(table).column
    if not isinstance(key.type, sa.Integer) or key is not table.autoincrement_column:
        return None
    return quoted(f"{table.name}_{key.name}_seq")


def _name(table: sa.Table) -> str:
    return f"public.{quoted(table.name)}"
