"""A URL is read as it was meant or refused; no piece of a password is shown or asked of DNS."""

import re
import socket
from pathlib import Path

import pytest

from pipeline_tests.support.commands import pipeline

HOST = "db.host.example"


@pytest.fixture(autouse=True)
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks where a host is."""

    def asked(*names: object, **_: object) -> None:
        raise AssertionError(f"DNS was asked for {names}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)


def test_a_command_says_how_to_write_the_password_and_nothing_of_it(tmp_path: Path) -> None:
    url = f"postgresql://postgres:pa@zz?word@{HOST}:5432/postgres"
    for command in ("plan", "doctor"):
        ran = pipeline(command, DATABASE_URL=url, PIPELINE_HOME=str(tmp_path))
        assert ran.code == 2
        assert "DATABASE_URL is malformed or ambiguous" in ran.err
        for escape in ("%25", "%40", "%3A", "%2F", "%3F", "%23", "%5B", "%5D", "%20"):
            assert escape in ran.err
        assert not re.search(r"pa@|zz|word@", ran.out + ran.err)
