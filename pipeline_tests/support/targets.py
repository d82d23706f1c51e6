"""A target that a test looks into: databases, statements, and all that is stored."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq


@contextmanager
def new_database(server: URL, name: str, *, template: str = "template1") -> Iterator[URL]:
    """A database that is dropped at the end of a block."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        # Copying files takes less than half the work of the default, which logs every page.
        connection.cursor().execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
        )
        try:
            yield server.set(database=name)
        finally:
            connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def query(url: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of the target; a statement without rows gives none. It is committed."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def reasons(url: str, table: str) -> dict[str, set[str]]:
    """What is in quarantine of a table: key (or row_id) -> reason codes."""
    rows = query(
        url,
        "SELECT coalesce(source_key, row_id), array_agg(r->>'code') FROM migration.quarantine,"
        " jsonb_array_elements(reasons) r WHERE table_name = %s GROUP BY 1",
        (table,),
    )
    return {key: set(codes) for key, codes in rows}


def everything_stored(url: str) -> Iterator[tuple[str, str]]:
    """Every value of every table and the table's name; what is compressed is opened."""
    tables = query(
        url,
        "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
        " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
        " AND table_schema NOT IN ('pg_catalog', 'information_schema')",
    )
    for (table,) in tables:
        for row in query(url, f"SELECT * FROM {table}"):
            for value in row:
                if isinstance(value, memoryview):
                    try:
                        yield table, zlib.decompress(value).decode(errors="replace")
                    except zlib.error:
                        yield table, value.tobytes().decode(errors="replace")
                else:
                    yield table, str(value)


CHANGE_ON_INSERT = """
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id = 2 THEN NEW.body_text := 'changed on the way'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER change BEFORE INSERT ON content_fragments FOR EACH ROW EXECUTE FUNCTION change();
"""
