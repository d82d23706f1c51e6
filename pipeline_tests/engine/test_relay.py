"""PostgreSQL behind the relay: what the relay counts is what the client sent and waited for."""

import io
import threading
import time
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL

from bench.proxy import relay
from pipeline.config.settings import libpq

PLAIN = {"sslmode": "disable", "gssencmode": "disable"}


def test_statements_and_round_trips_are_counted_over_all_connections(server: URL) -> None:
    with relay(server, delay=0.01) as proxy:
        url = libpq(proxy.url)
        started = time.monotonic()
        with closing(psycopg2.connect(url, **PLAIN)) as one:
            # The connection, and the startup message with its answer; then BEGIN, and the query.
            one.cursor().execute("SELECT 'ข้าว'")
        assert time.monotonic() - started > 4 * 0.02 - 0.002
        counts = proxy.taken()
        assert (counts.connections, counts.round_trips) == (1, 4)
        assert counts.statements == ["BEGIN", "SELECT 'ข้าว'"]
        with closing(psycopg2.connect(url)) as first, closing(psycopg2.connect(url)) as second:
            first.autocommit = second.autocommit = True
            proxy.taken()
            for connection in (first, second, first):
                connection.cursor().execute("SELECT 1; SELECT 2")
            counts = proxy.taken()
        assert (counts.connections, counts.round_trips) == (0, 3)
        assert counts.statements == ["SELECT 1; SELECT 2"] * 3


@pytest.mark.parametrize("row", [10, 100_000], ids=["short rows", "long rows"])
def test_a_copy_passes_in_both_directions_and_its_rows_are_no_statements(
    server: URL, row: int
) -> None:
    data = (b"x" * row + b"\n") * (3_000_000 // row)
    with (
        relay(server, delay=0.001) as proxy,
        closing(psycopg2.connect(libpq(proxy.url), **PLAIN)) as connection,
    ):
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE t (v text)")
        proxy.taken()
        cursor.copy_expert("COPY t FROM STDIN", io.BytesIO(data))
        there = proxy.taken()
        read = io.BytesIO()
        cursor.copy_expert("COPY t TO STDOUT", read)
        back = proxy.taken()
        cursor.execute("SELECT 1")
        assert proxy.taken().statements == ["SELECT 1"]
    assert read.getvalue() == data
    assert (there.statements, there.round_trips) == (["COPY t FROM STDIN"], 2)
    assert (back.statements, back.round_trips) == (["COPY t TO STDOUT"], 1)
    assert len(data) < there.sent < 1.1 * len(data) and there.received < 200
    # The server sends each row in a message of its own.
    assert len(data) < back.received < 1.6 * len(data) and back.sent < 200


def test_a_session_that_the_server_ends_is_ended_for_the_client(server: URL) -> None:
    with (
        relay(server, delay=0.01) as proxy,
        closing(psycopg2.connect(libpq(proxy.url))) as connection,
    ):
        cursor = connection.cursor()
        with pytest.raises(psycopg2.OperationalError, match="server closed the connection"):
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert connection.closed


def test_the_server_notices_that_a_client_is_gone(server: URL) -> None:
    with relay(server, delay=0.01) as proxy, closing(psycopg2.connect(libpq(server))) as watching:
        watching.autocommit = True
        cursor = watching.cursor()
        with closing(psycopg2.connect(libpq(proxy.url))) as connection:
            pid = connection.info.backend_pid
            asking = threading.Thread(target=connection.close)
            asking.start()
            asking.join()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,))
            if cursor.fetchone() == (0,):
                return
            time.sleep(0.02)
        pytest.fail("the session is still there")
