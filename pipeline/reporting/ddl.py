"""The whole schema of the target as one SQL file, for ``supabase/migrations``.

Applied to an empty database it makes what a first move makes: tables with keys, indexes and
rights, the ledger, and the indexes of the search. A move then finds its tables there and fills
them. Dagster makes its own tables.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.application.services import search
from pipeline.core.messages import ANYBODY, SCHEMA
from pipeline.core.policies import Policies
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.mapping.types import DIALECT
from pipeline.migrations.declaration import Migration, Search
from pipeline.move.reading.live import pinned
from pipeline.postgres import access, objects, schema

_HEADER = """\
-- Made by `{made_by}`; make it anew rather than edit it.
-- For a database with Supabase's roles: anon, authenticated, service_role.
"""


def of_source(source: Path, migration: Migration, policies: Policies) -> str:
    """The script for a migration's tables with the columns that a source makes them carry along.

    Raises:
        SourceError: the file cannot be read.
        SettingsError: a policy does not fit the tables.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(source, Path(folder), tables=migration.tables) as live,
    ):
        mappings = [match(table, live.columns(table.name), policies) for table in migration.tables]
        made_by = SCHEMA.written(migration.address)
        return script(mappings, searched=migration.declared(Search) is not None, made_by=made_by)


def script(
    mappings: Iterable[TableMapping], *, searched: bool, made_by: str = SCHEMA.written(ANYBODY)
) -> str:
    """SQL that makes everything, each statement ended by a semicolon.

    Args:
        mappings: the tables, parents before children, as they will be.
        searched: whether contents and fragments are among them, which are searched.
        made_by: the command that makes it.
    """
    tables = list(mappings)
    parts = [("What the pipeline remembers", [*schema.ledger_ddl(), *_hidden()])]
    functions = {
        f: roles for each in tables for f, roles in objects.functions_of(each.table).items()
    }
    if functions:
        parts.append(("What triggers and policies call", objects.functions_ddl(functions)))
    for mapping in tables:
        made = [*schema.whole(mapping), *access.statements(mapping.table)]
        parts.append((f"Table {mapping.name}", made))
    if searched:
        parts.append(("Search", search.ddl(DIALECT)))
    return _HEADER.format(made_by=made_by) + "".join(
        _part(title, statements) for title, statements in parts
    )


def _hidden() -> Iterator[str]:
    for name in access.HIDDEN:
        yield f"CREATE SCHEMA IF NOT EXISTS {name}"
        yield from access.hiding(name)


def _part(title: str, statements: Iterable[str]) -> str:
    return f"\n-- {title}\n" + "".join(f"{statement};\n" for statement in statements)
