"""Checks of the feed, the publication and the channels."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.findings import CheckResult, Finding
from pipeline.core.messages import REALTIME_ON, message
from pipeline.declared import events
from pipeline.declared.access import of_table
from pipeline.declared.feed import metadata as feed_metadata
from pipeline.declared.rules import ColumnRules
from pipeline.postgres import access as rights
from pipeline.postgres.target import Target
from pipeline.realtime import channels, feed_objects, publication
from pipeline.realtime.findings import (
    ObjectDiffers,
    OldRowsNotPublished,
    PolicyDiffers,
    PublicationDiffers,
    PublishedByOthers,
    SecretPublished,
    TablePublicationDiffers,
    WritesNotPublished,
)
from pipeline.realtime.functions import functions

PUBLISHED, SECRETS, TRIGGERS, CHANNELS = "published", "no_secrets_published", "triggers", "channels"
CANARY = "canary"
NAMES = (PUBLISHED, SECRETS, TRIGGERS, CHANNELS, CANARY)


def verify(
    target: Target, tables: Sequence[sa.Table], *, known: Sequence[sa.Table]
) -> tuple[CheckResult, ...]:
    """All checks except the canary; nothing is written.

    Args:
        target: a session within a transaction.
        tables: the migration's tables.
        known: the tables of all migrations.
    """
    return (
        published(target, tables, known=known),
        no_secrets_published(target, known),
        triggers(target, tables),
        allowed(target),
    )


def published(
    target: Target, tables: Sequence[sa.Table], *, known: Sequence[sa.Table]
) -> CheckResult:
    """Declared tables are published with their columns; tables of others only cause a warning."""
    now, wanted = publication.inspect(target), publication.declared(target, tables)
    wrong, other = [*_publication_findings(now)], list[Finding]()
    names = {table.name for table in known}
    for name in sorted({*wanted, *now.tables}):
        actual, how = now.tables.get(name), wanted.get(name)
        if actual == how:
            continue
        if how is None and name not in names:
            other.append(PublishedByOthers(name))
        else:
            wrong.append(TablePublicationDiffers(name, _description(how), _description(actual)))
    other += [PublishedByOthers(name) for name in now.others]
    for table in feed_objects.published_tables(tables):
        rules = events.published_changes(table)
        if rules and rules.old_rows and (more := publication.undeclared(target, table)):
            other.append(OldRowsNotPublished(table.name, tuple(more)))
    figures = {
        "tables": len(now.tables),
        "columns": sum(
            len(how.columns or _visible_columns(target, name)) for name, how in now.tables.items()
        ),
        "wal_level": str(target.value("SELECT current_setting('wal_level')")),
    }
    return _result(PUBLISHED, wrong, other, figures)


def _visible_columns(target: Target, table: str) -> tuple[str, ...]:
    """Columns of a published table that subscribers see."""
    found = target.rows(
        "SELECT attnames::text[] FROM pg_publication_tables WHERE pubname = $1"
        " AND schemaname = 'public' AND tablename = $2",
        (publication.NAME, table),
    )
    return tuple(found[0][0]) if found else ()


def no_secrets_published(target: Target, known: Sequence[sa.Table]) -> CheckResult:
    """No secret is published, according to the catalog and not to the declaration."""
    found = target.rows(
        "SELECT p.schemaname::text, p.tablename::text, a.attname::text,"
        " format_type(a.atttypid, NULL) FROM pg_publication_tables AS p"
        " JOIN pg_namespace AS n ON n.nspname = p.schemaname"
        " JOIN pg_class AS c ON (c.relnamespace, c.relname) = (n.oid, p.tablename)"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = ANY(p.attnames)"
        " WHERE p.pubname = $1 AND a.attnum > 0 ORDER BY 1, 2, a.attnum",
        (publication.NAME,),
    )
    declared = {table.name: table for table in known}
    findings: dict[Finding, None] = {}
    for schema, name, column, kind in found:
        table = declared.get(name) if schema == "public" else None
        if schema == "auth" or (table is not None and _holds_credentials(table)):
            findings[SecretPublished(name, None, "it holds sign-in data")] = None
        elif table is not None and column in table.c and ColumnRules.of(table.c[column]).secret:
            findings[SecretPublished(name, column, "it is a secret")] = None
        elif kind == "bytea":
            findings[SecretPublished(name, column, "it is a BLOB")] = None
    return CheckResult(
        SECRETS, not findings, True, tuple(findings), {"published_columns": len(found)}
    )


def triggers(target: Target, tables: Sequence[sa.Table]) -> CheckResult:
    """The feed's tables, functions and triggers exist as declared, enabled and hidden."""
    if not feed_objects.exists(target):
        missing = ObjectDiffers("schema", "feed", message("missing; run ", REALTIME_ON))
        return CheckResult(TRIGGERS, False, True, (missing,))
    wanted, present = feed_objects.triggers(tables), feed_objects.inspect(target)
    wanted_functions = functions(tables)
    findings: list[Finding] = [*_table_findings(target)]
    findings += [
        ObjectDiffers("function", function.signature, why)
        for function, why in feed_objects.differing(target, wanted_functions)
    ]
    existing = {(trigger.table, trigger.name): trigger for trigger in present}
    for trigger in wanted:
        actual = existing.pop((trigger.table, trigger.name), None)
        if actual != trigger:
            name = f"{trigger.name} on {trigger.table}"
            findings.append(ObjectDiffers("trigger", name, _trigger_problem(actual)))
    findings += [
        ObjectDiffers("trigger", f"{name} on {table}", "not declared") for table, name in existing
    ]
    findings += [
        found for found in rights.exposed(target) if getattr(found, "schema", None) == "feed"
    ]
    figures = {"triggers": len(present), "functions": len(wanted_functions)}
    return _result(TRIGGERS, findings, _without_triggers(target), figures)


def _without_triggers(target: Target) -> list[Finding]:
    """Roles and databases whose sessions fire no triggers by default."""
    found = target.rows(
        "SELECT r.rolname::text, d.datname::text FROM pg_db_role_setting AS s"
        " LEFT JOIN pg_roles AS r ON r.oid = s.setrole"
        " LEFT JOIN pg_database AS d ON d.oid = s.setdatabase"
        " WHERE 'session_replication_role=replica' = ANY(s.setconfig)"
        " AND (s.setdatabase = 0 OR d.datname = current_database()) ORDER BY 1, 2"
    )
    return [WritesNotPublished(role, database) for role, database in found]


def allowed(target: Target) -> CheckResult:
    """Channel policies are as declared; policies of others only cause a warning."""
    if not channels.exists(target):
        return CheckResult(CHANNELS, True, True, (), {"policies": 0})
    wrong: list[Finding] = []
    if not channels.secured(target):
        wrong.append(PolicyDiffers("(all)", "row level security is off, so no policy applies"))
    wrong += [
        ObjectDiffers("function", function.signature, why)
        for function, why in feed_objects.differing(target, channels.FUNCTIONS)
    ]
    present = {policy.name: policy for policy in channels.inspect(target)}
    for policy in channels.POLICIES:
        actual = present.pop(policy.name, None)
        if actual != policy:
            why = "missing" if actual is None else "not as declared"
            wrong.append(PolicyDiffers(policy.name, why))
    others = [
        PolicyDiffers(name, "not declared; it may grant access to other users") for name in present
    ]
    figures = {"policies": len(channels.POLICIES), "of_others": len(others)}
    return _result(CHANNELS, wrong, others, figures)


def _result(
    name: str, wrong: Sequence[Finding], others: Sequence[Finding], figures: dict[str, Any]
) -> CheckResult:
    """A check that fails for ``wrong``, and only warns of objects of others."""
    findings = (*wrong, *others)
    if findings:
        figures = {**figures, "offenders_in_all": len(findings)}
    return CheckResult(name, not findings, bool(wrong) or not others, findings, figures)


def _publication_findings(now: publication.State) -> Iterator[Finding]:
    if not now.exists:
        yield PublicationDiffers("it does not exist")
    if now.everything:
        yield PublicationDiffers("it publishes all tables, present and future")
    if not now.complete:
        yield PublicationDiffers(f"it publishes only {', '.join(sorted(now.operations))}")


def _table_findings(target: Target) -> Iterator[Finding]:
    found = target.rows(
        "SELECT c.relname::text, a.attname::text FROM pg_attribute AS a JOIN pg_class AS c"
        " ON c.oid = a.attrelid WHERE c.relnamespace = to_regnamespace('feed')"
        " AND c.relkind = 'r' AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    for table in feed_metadata.sorted_tables:
        actual = [column for name, column in found if name == table.name]
        if actual != [column.name for column in table.columns]:
            yield ObjectDiffers("table", f"feed.{table.name}", "its columns are not as declared")


def _holds_credentials(table: sa.Table) -> bool:
    """Whether even signed-in users may not read it."""
    return channels.LISTENER not in {access.role for access in of_table(table)}


def _description(how: publication.PublishedTable | None) -> str | None:
    if how is None:
        return None
    columns = "all columns" if how.columns is None else ", ".join(how.columns)
    identity = "full old rows" if how.identity == "f" else "keys of old rows"
    return f"{columns} and {identity}" + ("" if how.rows else ", of selected rows")


def _trigger_problem(actual: feed_objects.Trigger | None) -> str:
    if actual is None:
        return "missing"
    return "disabled" if actual.enabled == "D" else "not as declared"
