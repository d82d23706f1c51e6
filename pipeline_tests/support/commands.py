"""The command `pipeline` as a user runs it: a process of its own, settings in the environment.

Nearly all of a command's time goes into loading what it needs. So a process that has loaded it, but
has read no setting and met no database, forks for each command; the child takes arguments,
environment and output of its own and ends as any program does. ``start`` takes the installed
program instead.
"""

import functools
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import build
from pipeline.config.settings import DAGSTER_FILES, DAGSTER_URL, PROJECT
from pipeline.reporting import evidence_page
from pipeline_tests.support.sources import SourceFile

SETTINGS = (
    "SQLITE_DATABASE_URL",
    "SPACES_DATABASE_URL",
    "DATABASE_URL",
    "PIPELINE_HOME",
    "MAX_DELETE_SHARE",
    "LOCK_SECONDS",
    "DAGSTER_HOME",
    "PIPELINE_DAGSTER_URL",
)
PROGRAM = Path(sys.executable).with_name("pipeline")
_SECONDS = 120


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    out: str
    err: str

    def row(self, *cells: str) -> list[str]:
        """The rest of the first printed row that starts with these cells."""
        for line in self.out.splitlines():
            found = re.split(r"\s{2,}", line.strip())
            if found[: len(cells)] == list(cells):
                return found[len(cells) :]
        raise AssertionError(f"no row starts with {cells} in\n{self.out}")


def environment(**settings: object) -> dict[str, str]:
    """The environment of a command: these settings and none of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return kept | {name: str(value) for name, value in settings.items()}


def usable(source: SourceFile, target_url: str, folder: Path) -> dict[str, str]:
    """Settings of a command that moves a source to a target and keeps its files in a folder."""
    return {
        "SQLITE_DATABASE_URL": f"sqlite:///{source.path}",
        "DATABASE_URL": target_url,
        "PIPELINE_HOME": str(folder / "home"),
    }


def start(*arguments: str, **settings: object) -> "subprocess.Popen[str]":
    """Start the installed program, with these settings."""
    return subprocess.Popen(
        [PROGRAM, *arguments],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def installed(*arguments: str, **settings: object) -> Ran:
    """Run the installed program to its end, with these settings."""
    with start(*arguments, **settings) as process:
        try:
            out, err = process.communicate(timeout=_SECONDS)
        finally:
            process.kill()
    return Ran(process.returncode, out, err)


@dataclass
class Running:
    """A command that goes on in a process that need not load it.

    Attributes:
        pid: the process.
        folder: where its output goes.
        code: its exit code, once it has ended; negative for a signal.
    """

    pid: int
    folder: Path
    code: int | None = None

    def line(self) -> str:
        """The first line that it prints, waited for."""
        deadline = time.monotonic() + _SECONDS
        while "\n" not in (printed := (self.folder / "out").read_text()):
            assert time.monotonic() < deadline, (self.folder / "err").read_text()
            time.sleep(0.005)
        return printed.partition("\n")[0]

    def kill(self) -> None:
        """End it without any exit handler."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code = int(_ordered(ended=self.pid))

    def ended(self) -> Ran:
        """Wait for its end."""
        if self.code is None:
            self.code = int(_ordered(ended=self.pid))
        return Ran(self.code, *((self.folder / name).read_text() for name in ("out", "err")))


@contextmanager
def running(*arguments: str, **settings: object) -> Iterator[Running]:
    """Start the command in a process that need not load it; killed at the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        order = {"arguments": arguments, "folder": folder, "environment": environment(**settings)}
        process = Running(int(_ordered(**order)), Path(folder))
        try:
            yield process
        finally:
            process.kill()


def pipeline(*arguments: str, **settings: object) -> Ran:
    """Run the command to its end in a process that need not load it, with these settings."""
    with running(*arguments, **settings) as process:
        return process.ended()


def command(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *arguments: str,
    **settings: object,
) -> Ran:
    """Run the command to its end, in this process."""
    from pipeline.cli import main

    for name in (DAGSTER_URL, DAGSTER_FILES, "DAGSTER_HOME"):
        monkeypatch.setenv(name, str(PROJECT))
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    capfd.readouterr()
    code: Any = 0
    try:
        main.main()
    except SystemExit as ended:
        code = ended.code or 0
    out, err = capfd.readouterr()
    return Ran(code, out, err)


def _ordered(**order: object) -> str:
    """What the process that has loaded the command answers to an order."""
    loaded = _loaded()
    assert loaded.stdin is not None
    assert loaded.stdout is not None
    print(json.dumps(order), file=loaded.stdin)
    return loaded.stdout.readline()


@functools.cache
def _loaded() -> "subprocess.Popen[str]":
    """A process that has loaded the command; it ends when this one does, as its input ends."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


_LOADS = (
    "pipeline.cli.main",
    "pipeline.cli.commands.job_runs",
    "pipeline.orchestration.assets.anki",
    "pipeline.orchestration.assets.cutover",
    "pipeline.orchestration.assets.doctor",
    "pipeline.orchestration.assets.housekeeping",
    "pipeline.orchestration.assets.plan",
    "pipeline.orchestration.assets.search",
    "pipeline.orchestration.assets.tables",
    "pipeline.orchestration.instance.retrying_storage",
    "pipeline.orchestration.jobs",
    "pipeline.orchestration.schedules",
    "pipeline.orchestration.serving.health",
)
"""What commands import, and ``pipeline.orchestration.definitions``, which itself reads settings."""


def _serve() -> None:
    gc.disable()
    for name in _LOADS:
        importlib.import_module(name)
    # To compile the template of the evidence takes longer than to write a page of it.
    evidence_page._environment().get_template("evidence.html.j2")
    assert "pipeline.orchestration.definitions" not in sys.modules
    gc.enable()
    for line in sys.stdin:
        order = json.loads(line)
        if "ended" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["ended"], 0)[1]), flush=True)
            continue
        for name in ("out", "err"):
            Path(order["folder"], name).touch(0o600)
        child = os.fork()
        if child == 0:
            _become(order)
            return
        print(child, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Be the command that is ordered, from its arguments to its exit."""
    signal.alarm(_SECONDS)
    folder = Path(order["folder"])
    for number, path in enumerate((os.devnull, folder / "out", folder / "err")):
        opened = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    # What a command makes is private however loose the user's own umask is.
    os.umask(0)
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    sys.argv = [str(PROGRAM), *order["arguments"]]
    from pipeline.__main__ import main

    main()


if __name__ == "__main__":
    _serve()


LINE_BREAKS_ONLY = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f]*")


def invoke(*arguments: str, **options: Any) -> str:
    """Run a command in this process; what it prints."""
    result = CliRunner().invoke(build(["content"]), arguments, **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\u200b\n[red]x[/] \\[link=http://evil.example]y"


OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def obeyed(text: str) -> set[str]:
    """Letters of a text that a terminal would obey or that nobody sees."""
    return {letter for letter in text if unicodedata.category(letter) in OBEYED and letter != "\n"}
