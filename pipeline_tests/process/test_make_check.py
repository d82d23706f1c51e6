"""What `make check` asks beside lint and types fails when it should, and says when it cannot."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.config.settings import PROJECT

CI = PROJECT / ".ci"
LOCK = "pip-audit==2.10.1 \\\n    --hash=sha256:00\nold-thing==1.0 \\\n    --hash=sha256:00\n"
KEY = "AKIA" + "IOSFODNN7QVABCDE"
"""Put together here, so that this file holds none."""


def ran(script: str, folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """Exit code and what is printed."""
    kept = {name: value for name, value in os.environ.items() if "AUDIT" not in name}
    done = subprocess.run(
        [sys.executable, folder / ".ci" / script, *arguments],
        cwd=folder,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of few files."""
    shutil.copytree(CI, tmp_path / ".ci")
    (tmp_path / ".ci" / "secrets.json").write_text("[]")
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "code.py").write_text("url = 'postgresql://localhost/learning'\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def test_a_planted_key_is_named_without_repeating_it(project: Path) -> None:
    assert ran("no_secrets.py", project) == (0, "")
    (project / "code.py").write_text(f"# harmless\nkey = '{KEY}'\n")
    code, said = ran("no_secrets.py", project)
    assert code == 1
    assert "code.py:2: AWS Access Key" in said
    assert KEY not in said
    assert ran("no_secrets.py", project, "--accept") == (0, "")
    # What was looked at may move to another line, and is not kept in the clear.
    (project / "code.py").write_text(f"# harmless\n\nkey = '{KEY}'\n")
    assert ran("no_secrets.py", project) == (0, "")
    assert KEY not in (project / ".ci" / "secrets.json").read_text()


def test_the_baseline_holds_no_more_than_what_is_there() -> None:
    known = json.loads((CI / "secrets.json").read_text())
    assert all((PROJECT / name).is_file() for name, _, _ in known)


@contextmanager
def registry(vulnerable: str | None) -> Iterator[str]:
    """A service that speaks OSV's protocol and knows one vulnerability, or none."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            told = {"id": "PYSEC-1", "summary": "bad", "modified": "2026-01-01T00:00:00Z"}
            told |= {"affected": [{"package": asked["package"], "ranges": []}]}
            body = json.dumps({"vulns": [told]} if name == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def test_a_known_vulnerability_fails(project: Path) -> None:
    with registry("old-thing") as url:
        code, said = ran("audit.py", project, AUDIT_URL=url)
    assert code == 1
    assert said.splitlines() == [
        "old-thing 1.0: PYSEC-1, mended in no version",
        "1 known vulnerabilities in 2 packages",
    ]


def test_without_known_vulnerabilities_it_passes(project: Path) -> None:
    with registry(None) as url:
        assert ran("audit.py", project, AUDIT_URL=url) == (
            0,
            "0 known vulnerabilities in 2 packages\n",
        )


@pytest.mark.parametrize("demanded", [{}, {"REQUIRE_AUDIT": "1"}])
def test_a_registry_that_does_not_answer_is_told_and_fails_only_where_that_is_asked_for(
    demanded: dict[str, str], project: Path
) -> None:
    code, said = ran("audit.py", project, AUDIT_URL="http://127.0.0.1:9/v1/query", **demanded)
    assert said.startswith("Not audited for known vulnerabilities: ")
    assert code == (1 if demanded else 0)
