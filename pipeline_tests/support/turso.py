"""A real server of Turso, an application that writes it over HTTP, and a network in between."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.core.locks import locked
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile

VERSION = "0.6.0"
"""Of npm's package ``turso``, which brings the server."""
TOKEN = "eyJhbGciOiJFZERTQSJ9.t0ken-of-a-test"


@pytest.fixture(scope="session")
def tursodb() -> Path:
    """The server's program, installed once into a folder that later sessions find again."""
    npm = shutil.which("npm")
    if npm is None and not os.environ.get("REQUIRE_TURSO"):
        pytest.skip("npm is not there, which brings the server of Turso")
    folder = Path(tempfile.gettempdir()) / f"pipeline-turso-{VERSION}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with locked(folder / "lock", wait=True):
        found = list(folder.glob("node_modules/@tursodatabase/cli-*/tursodb"))
        if not found:
            command = [str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(
                [*command, f"turso@{VERSION}"], cwd=folder, check=True, capture_output=True
            )
            found = list(folder.glob("node_modules/@tursodatabase/cli-*/tursodb"))
    return found[0]


@dataclass
class Server:
    """The server, which can be stopped and started, and what the application does with it.

    Attributes:
        program: the server's.
        file: its database.
        port: where it listens; it asks for no token.
    """

    program: Path
    file: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, where it was before."""
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [self.program, self.file, "--sync-server", f"127.0.0.1:{self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise TimeoutError("the server does not listen")

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask it, as the application does: at the primary, over HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                "POST", "/v2/pipeline", json.dumps({"baton": None, "requests": requests})
            )
            results: list[dict[str, Any]] = json.load(connection.getresponse())["results"]
        return results

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement; a refusal is an error with the server's words."""
        args = [_sent(each) for each in parameters]
        (result,) = self.send([{"type": "execute", "stmt": {"sql": sql, "args": args}}])
        if result["type"] == "error":
            raise RuntimeError(result["error"]["message"])
        return [tuple(map(_read, row)) for row in result["response"]["result"]["rows"]]


def _sent(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {"type": "null"}
        case int():
            return {"type": "integer", "value": str(value)}
        case float():
            return {"type": "float", "value": value}
        case bytes():
            return {"type": "blob", "base64": base64.b64encode(value).decode()}
    return {"type": "text", "value": value}


def _read(value: dict[str, Any]) -> Any:
    match value["type"]:
        case "null":
            return None
        case "integer":
            return int(value["value"])
        case "blob":
            return base64.b64decode(value["base64"] + "==")
    return value["value"]


Fault = Literal["cut", "lose the answer"]


@dataclass
class Gate:
    """What stands before the server: it asks for a token, and can be a bad network.

    Attributes:
        server: the one behind.
        url: where the gate listens.
        status: answers so, where it is set.
        fault: ``cut`` breaks off in the middle of an answer, ``lose the answer`` before it.
        of: only requests of paths that end so meet status and fault.
        slow: seconds before each answer.
        garbled: bytes of requests that arrive as others.
        asked: paths that were asked for.
    """

    server: Server
    url: str = ""
    status: int | None = None
    fault: Fault | None = None
    of: str = ""
    slow: float = 0.0
    garbled: tuple[bytes, bytes] = (b"", b"")
    asked: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Take one request."""
        self.asked.append(request.path)
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        time.sleep(self.slow)
        allowed = request.headers.get("authorization") == f"Bearer {TOKEN}"
        meant = request.path.endswith(self.of)
        if (self.status and meant) or not allowed:
            said = f"not with {request.headers.get('authorization')}".encode()
            self._say(request, self.status or 401, said, len(said))
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        with contextlib.closing(behind):
            if self.garbled[0]:
                body = body.replace(*self.garbled)
            behind.request("POST", request.path, body)
            got = behind.getresponse()
            answer, status = got.read(), got.status
        if self.fault and meant:
            if self.fault == "cut":
                self._say(request, status, answer[: len(answer) // 2], len(answer))
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        self._say(request, status, answer, len(answer))

    def _say(
        self, request: BaseHTTPRequestHandler, status: int, answer: bytes, length: int
    ) -> None:
        request.send_response(status)
        request.send_header("content-length", str(length))
        request.end_headers()
        request.wfile.write(answer)


@contextlib.contextmanager
def gate_before(server: Server) -> Iterator[Gate]:
    made = Gate(server)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with contextlib.suppress(OSError):
                made.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        made.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield made
        listening.shutdown()


@pytest.fixture
def turso(tursodb: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty database."""
    made = Server(tursodb, tmp_path / "primary.db")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def gate(turso: Server) -> Iterator[Gate]:
    """The way to that server, which asks for a token."""
    with gate_before(turso) as made:
        yield made


@dataclass(frozen=True)
class OnTurso(SourceFile):
    """A source that the application writes at the primary; its path is the file that follows."""

    server: Server | None = None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement at the primary."""
        assert self.server is not None
        return self.server.run(sql, parameters)


_COUNTED = ("INTEGER NOT NULL PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL")
"""Ids as Drizzle declares them."""


def application(server: Server, path: Path) -> OnTurso:
    """The application of the contents, with its schema at the primary."""
    made = OnTurso(path, server)
    for statement in CONTENT_DDL.split(";"):
        if statement.strip():
            made.run(statement.replace(*_COUNTED))
    return made
