"""Real receivers of alerts on this machine: a webhook, and a mail server that can encrypt."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

SECRET_PATH = "/services/T0/B0/s3cr3tpath"
PASSWORD = "s3cr3t@pa55"


@dataclass
class Hook:
    """A webhook that takes alerts, or does not.

    Attributes:
        status: what it answers.
        wait: how many seconds it takes for that.
        alerts: what it was sent and took.
        asked: how often it was asked.
    """

    status: int = 200
    wait: float = 0.0
    alerts: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """Its address, a part of which is a secret."""
        return f"http://127.0.0.1:{self.port}{SECRET_PATH}"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook that listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.asked += 1
            time.sleep(made.wait)
            if made.status == 200 and self.path == SECRET_PATH:
                made.alerts.append(json.loads(body))
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@dataclass
class Mailbox:
    """A mail server that takes mails, or does not.

    Attributes:
        mails: what it took.
        logins: who logged in, with which password, and whether that was encrypted.
        refuses: what it answers to a recipient instead of taking the mail.
    """

    port: int = 0
    mails: list[Envelope] = field(default_factory=list)
    logins: list[tuple[str, str, bool]] = field(default_factory=list)
    refuses: str = ""

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take or refuse a recipient."""
        if self.refuses:
            return self.refuses
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail."""
        self.mails.append(envelope)
        return "250 OK"

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        """Let one password in."""
        assert isinstance(data, LoginPassword)
        login = data.login.decode(), data.password.decode()
        self.logins.append((*login, session.ssl is not None))
        return AuthResult(success=login[1] == PASSWORD, handled=False)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A mail server on this machine, without encryption."""
    yield from _served(Mailbox())


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A mail server that demands STARTTLS, with a certificate that is trusted."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield from _served(Mailbox(), tls_context=context, require_starttls=True)


@contextmanager
def dripping(drops: Sequence[bytes], *, every: float) -> Iterator[int]:
    """The port of a server that sends one piece after another to each client, and reads nothing.

    The last piece is repeated without end; the first one is sent at once.
    """
    ended = threading.Event()
    connections: list[socket.socket] = []

    def drip(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            number = 0
            while not ended.is_set():
                connection.sendall(drops[min(number, len(drops) - 1)])
                number += 1
                ended.wait(every)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        ended.set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _served(made: Mailbox, **options: Any) -> Iterator[Mailbox]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        made.port = listening.getsockname()[1]
    controller = Controller(
        made,
        hostname="127.0.0.1",
        port=made.port,
        authenticator=made.authenticate,
        auth_require_tls="tls_context" in options,
        **options,
    )
    controller.start()
    yield made
    controller.stop()
