"""Certificates, against a server that speaks TLS: Debian's, because the embedded one does not."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from pipeline.core.errors import TargetError, Transient
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.doctor.target import examine
from pipeline.migrations.content import metadata
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
USER = "postgres"

pytestmark = pytest.mark.skipif(
    not (PROGRAMS and shutil.which("openssl")) and "REQUIRE_BROWSER" not in os.environ,
    reason="no PostgreSQL with TLS is installed",
)


@dataclass(frozen=True)
class Encrypted:
    """A server that has a certificate for ``localhost`` of an authority of its own."""

    folder: Path
    port: int

    def url(self, *, host: str = "localhost", mode: str = "verify-full", ca: str = "ca.crt") -> str:
        """How it is reached; no password is asked for."""
        return (
            f"postgresql://{USER}@{host}:{self.port}/postgres?sslmode={mode}"
            f"&sslrootcert={self.folder / ca}"
        )


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    assert PROGRAMS, "no PostgreSQL with TLS is installed"
    folder = tmp_path_factory.mktemp("tls")
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    for name in ("ca", "other"):
        run(
            folder,
            "openssl",
            "req",
            "-x509",
            *key(f"{name}.key"),
            "-out",
            f"{name}.crt",
            *called(name),
        )
    run(folder, "openssl", "req", *key("server.key"), "-out", "server.csr", *called("localhost"))
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    run(
        folder,
        *("openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-out", "server.crt", "-extfile", "names"),
    )
    (folder / "server.key").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "postgres").mkdir()
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        for path in (folder / "postgres", folder / "server.key", folder / "server.crt"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    data = folder / "postgres" / "data"
    as_owner(folder, "initdb", "-D", data, "-A", "trust", "-U", USER, "--no-sync")
    options = {
        "listen_addresses": "localhost",
        "unix_socket_directories": folder / "postgres",
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": folder / "server.crt",
        "ssl_key_file": folder / "server.key",
    }
    given = " ".join([f"-p {port}", *(f"-c {name}={value}" for name, value in options.items())])
    log = folder / "postgres" / "log"
    as_owner(folder, "pg_ctl", "-D", data, "-w", "-o", given, "-l", log, "start")
    yield Encrypted(folder, port)
    as_owner(folder, "pg_ctl", "-D", data, "-m", "immediate", "stop")


def key(name: str) -> list[str]:
    return ["-newkey", "rsa:2048", "-nodes", "-keyout", name]


def called(name: str) -> list[str]:
    return ["-subj", f"/CN={name}"]


def run(folder: Path, *command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def as_owner(folder: Path, program: str, *arguments: object) -> None:
    """Run a program of PostgreSQL's, which refuses to be root."""
    assert PROGRAMS
    become = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    run(folder / "postgres", *become, PROGRAMS / program, *arguments)


def seen(url: str, name: str) -> Diagnostic:
    found = examine(make_url(url), tables=metadata.sorted_tables, bytes_needed=0)
    return next(diagnostic for diagnostic in found if diagnostic.name == name)


def test_a_checked_certificate_is_well(encrypted: Encrypted) -> None:
    found = seen(encrypted.url(), "encryption")
    assert (found.state, found.detail) == ("ok", "encrypted, and the certificate is checked")


def test_on_this_machine_it_need_not_be_checked(encrypted: Encrypted) -> None:
    found = seen(encrypted.url(mode="require", ca="no.crt"), "encryption")
    assert (found.state, found.detail) == ("ok", "not needed: the server is on this machine")


@pytest.mark.parametrize(
    "url",
    [
        {"ca": "other.crt"},
        {"ca": "missing.crt"},
        {"host": "127.0.0.1"},
    ],
)
def test_a_certificate_that_is_not_trusted_is_told_and_not_tried_again(
    encrypted: Encrypted, url: dict[str, str]
) -> None:
    found = seen(encrypted.url(**url), "reachable")
    assert found.state == "error"
    assert "the server's certificate is not trusted" in found.detail
    assert found.remedy.startswith("Set sslrootcert to the certificate authority of the server")
    with (
        pytest.raises(TargetError, match="the server's certificate is not trusted") as told,
        Target.connect(encrypted.url(**url), shown="the target"),
    ):
        pass
    assert not isinstance(told.value, Transient)


def test_a_move_goes_through_an_encrypted_connection(
    encrypted: Encrypted, source: SourceFile
) -> None:
    """And to an older PostgreSQL than the embedded one, where Debian's is one."""
    source.add_family()
    for strategy in ("filled", "unchanged"):
        moved = move_all(source.path, encrypted.url())
        assert {move.strategy for move in moved.values()} == {strategy}
    assert query(encrypted.url(), "SELECT count(*) FROM rankings") == [(12,)]
