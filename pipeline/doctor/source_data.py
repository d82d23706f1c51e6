"""Foresee what a move will do with the source's tables, columns and forms of values."""

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError, SourceError
from pipeline.core.findings import Drift
from pipeline.core.locks import private_folder
from pipeline.core.messages import PLAN, Text, message
from pipeline.core.policies import Policies
from pipeline.doctor.diagnostics import Diagnostic, State
from pipeline.mapping.table_mapping import TableMapping
from pipeline.migrations.declaration import Migration
from pipeline.move.reading import recognition
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.reading.source_view import SourceView
from pipeline.sqlite import tables

_BUSY_SECONDS = 5.0


def examine(
    path: Path, migration: Migration, policies: Policies, *, folder: Path
) -> Iterator[Diagnostic]:
    """Match every table with its declaration, and name what stays behind.

    Args:
        path: the source; if it cannot be read, another check says so, and this one nothing.
        folder: for private files.
    """
    try:
        with (
            private_folder(folder, f"doctor-{uuid.uuid4().hex}") as own,
            pinned(path, own, tables=migration.tables, busy_seconds=_BUSY_SECONDS) as live,
        ):
            yield from _examine(live, migration, policies)
    except SourceError:
        return


def _examine(source: SourceView, migration: Migration, policies: Policies) -> Iterator[Diagnostic]:
    mappings = []
    problems = []
    for table in migration.tables:
        try:
            mappings.append(source.match(table, policies))
        except PipelineError as error:
            problems.append(error)
    with source.sqlite() as connection:
        others = tables.others(
            connection, migration.tables, stays=migration.stays, schema=source.schema, count=True
        )
        yield _columns(mappings, problems)
        yield _forms(connection, mappings, policies, source.schema)
        yield _other_tables(others)


def _columns(mappings: list[TableMapping], problems: list[PipelineError]) -> Diagnostic:
    if problems:
        first, more = problems[0], len(problems) - 1
        detail = first.problem + (f" (and {more} more tables)" if more else "")
        return _diagnostic("columns", "error", detail, first.advice)
    drift = [found for mapping in mappings for found in mapping.drift]
    if not drift:
        return _diagnostic("columns", "ok", "as declared")
    detail = "; ".join(found.sentence for found in drift)
    remedy = message(PLAN, " shows what each column holds")
    return _diagnostic("columns", "warning", detail, remedy)


def _forms(
    connection: sqlite3.Connection, mappings: list[TableMapping], policies: Policies, schema: str
) -> Diagnostic:
    found = [
        each
        for mapping in mappings
        for each in recognition.proposals(connection, mapping, schema=schema)
    ]
    doubts: list[Drift] = [
        each
        for mapping in mappings
        for each in (
            *recognition.doubts(connection, mapping, schema=schema),
            *recognition.unreadable(connection, mapping, found, schema=schema),
        )
    ]
    if not found and not doubts:
        return _diagnostic("forms", "ok", "moments, booleans and decimals are stored as declared")
    detail = "; ".join([*(each.sentence for each in found), *(each.sentence for each in doubts)])
    remedy = (
        f"If the values are as described, set {recognition.settings(found, policies.forms)};"
        " otherwise the rows go to quarantine, or the values move as they are"
        if found
        else "Correct these values in the source, or POLICY_FORMS"
    )
    return _diagnostic("forms", "warning", detail, remedy)


def _other_tables(found: list[tables.OtherTable]) -> Diagnostic:
    if not found:
        return _diagnostic("other tables", "ok", "all tables are declared")
    detail = f"not declared: {', '.join(each.shown for each in found)}"
    remedy = "They stay in the source. Declare a table in the migration to move it"
    return _diagnostic("other tables", "warning", detail, remedy)


def _diagnostic(name: str, state: State, detail: str, remedy: Text = "") -> Diagnostic:
    return Diagnostic("source", name, state, detail, remedy)
