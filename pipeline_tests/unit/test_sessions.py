"""Every session states what it relies on, whatever server, role, URL and environment have set."""

import ast

from sqlalchemy.engine import make_url

from pipeline.config import records, settings
from pipeline.postgres import session
from pipeline.postgres.session import MOVES

_OPENERS = ("psycopg", "adbc_postgresql", "adbc_driver_postgresql", "arrow_driver")


def test_nobody_else_opens_a_connection() -> None:
    found = set()
    for path in (settings.PROJECT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.endswith("create_engine") or (
                called.endswith("connect") and called.startswith(_OPENERS)
            ):
                found.add((str(path.relative_to(settings.PROJECT)), called))
    assert found == {
        ("pipeline/postgres/session.py", "psycopg2.connect"),
        ("pipeline/postgres/driver/arrow_driver.py", "adbc_driver_postgresql.connect"),
        ("pipeline/postgres/arrow_session.py", "arrow_driver.connect"),
        # Asks a pooler which session another client gets, and relies on no setting.
        ("pipeline/postgres/driver/poolers.py", "psycopg2.connect"),
        ("pipeline/application/realtime/transports/session.py", "psycopg.AsyncConnection.connect"),
        ("pipeline/application/manager.py", "sa.create_engine"),
    }


def test_what_a_url_says_for_good_reasons_stands() -> None:
    url = (
        "postgresql://u:p%40@one,two:5433/db?sslmode=verify-full&sslrootcert=%2Fa%2Bb"
        "&client_encoding=LATIN1&options=endpoint%3Dcool%20-csearch_path%3Delsewhere"
        "&connect_timeout=3&application_name=mine&target_session_attrs=read-write"
    )
    base, _, query = session.address(url, MOVES, application_name="pipeline").partition("?")
    given = dict(part.split("=", 1) for part in query.split("&"))
    assert base == "postgresql://u:p%40@one,two:5433/db"
    assert len(query.split("&")) == len(given)
    assert given["sslrootcert"] == "%2Fa%2Bb"
    assert (given["sslmode"], given["target_session_attrs"]) == ("verify-full", "read-write")
    assert (given["connect_timeout"], given["application_name"]) == ("3", "mine")
    assert given["client_encoding"] == "UTF8"
    assert given["options"].startswith("endpoint%3Dcool%20-csearch_path%3Delsewhere%20-c")
    plain = session.address("postgresql:///db", MOVES, application_name="pipeline")
    assert plain.startswith("postgresql:///db?application_name=pipeline&connect_timeout=30&")


def test_dagster_keeps_what_its_url_says_too() -> None:
    url = make_url("postgresql://u@h/db?options=endpoint%3Dcool&sslmode=require")
    made = make_url(records.dagster_url(url))
    assert made.query["options"] == f"endpoint=cool {records.DAGSTER_OPTIONS}"
    assert (made.query["sslmode"], made.query["client_encoding"]) == ("require", "UTF8")
