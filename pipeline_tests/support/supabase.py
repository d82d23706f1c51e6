"""A PostgreSQL prepared like Supabase's: its roles, and rights that it gives to every new table."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.postgres.embedded.server import ensure_server, leave

_ROLES = """
CREATE ROLE anon NOLOGIN NOINHERIT;
CREATE ROLE authenticated NOLOGIN NOINHERIT;
CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT anon, authenticated, service_role TO authenticator;
CREATE ROLE owner LOGIN CREATEROLE;
GRANT anon, authenticated, service_role TO owner;
"""
_DATABASE = """
ALTER SCHEMA public OWNER TO owner;
CREATE SCHEMA extensions AUTHORIZATION owner;
GRANT USAGE ON SCHEMA public, extensions TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
  GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
  GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
  GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
"""


@pytest.fixture(scope="session")
def supabase_server() -> Iterator[URL]:
    """A server of its own, because roles belong to all databases of one."""
    folder = Path(tempfile.mkdtemp(prefix=f"sb{os.getpid()}"))
    url = ensure_server(folder / "data")
    _run(url, _ROLES)
    yield url
    leave(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def supabase(supabase_server: URL, request: pytest.FixtureRequest) -> Iterator[URL]:
    """An empty database, reached as the user that owns it and may not do everything."""
    with project(supabase_server, f"project_{zlib.crc32(request.node.nodeid.encode())}") as url:
        yield url


@contextmanager
def project(server: URL, name: str) -> Iterator[URL]:
    """An empty database of this name, reached as its owner."""
    _run(server, f"CREATE DATABASE {name} OWNER owner")
    try:
        _run(server.set(database=name), _DATABASE)
        yield server.set(database=name, username="owner")
    finally:
        _run(server, f"DROP DATABASE {name} WITH (FORCE)")


def _run(url: URL, sql: str) -> None:
    with closing(psycopg2.connect(libpq(url))) as connection:
        connection.autocommit = True
        connection.cursor().execute(sql)
