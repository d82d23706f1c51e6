"""The processes that run for good: the code server, the UI's webserver and the daemon.

Each is one of Dagster's own programs, which takes the place of ``pipeline serve`` once the settings
are found usable. Runs are processes of the code server's; the other two reach it by a Unix socket,
so nobody else on the machine or in the network can.
"""

import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from pipeline import storage
from pipeline.move.errors import SettingsError
from pipeline.settings import CODE_SOCKET, PROJECT, Settings

HOME = PROJECT / "deploy"
"""The folder of the dagster.yaml and workspace.yaml of processes that run for good."""

_CODE_SECONDS = 60.0


class Part(StrEnum):
    """A process that runs for good."""

    CODE = "code"
    WEBSERVER = "webserver"
    DAEMON = "daemon"


def command(part: Part, settings: Settings, *, home: Path) -> list[str]:
    """What is started for a part.

    Args:
        part: which.
        settings: where it listens.
        home: the folder of workspace.yaml.
    """
    bin_, workspace = Path(sys.prefix) / "bin", ["-w", str(home / "workspace.yaml")]
    if part is Part.CODE:
        listen = ["--socket", str(settings.code_socket), "--location-name", "pipeline"]
        return [str(bin_ / "dagster"), "api", "grpc", "-m", "pipeline.definitions", *listen]
    if part is Part.DAEMON:
        return [str(bin_ / "dagster-daemon"), "run", *workspace]
    listen = ["-h", settings.ui_host, "-p", str(settings.ui_port)]
    return [str(bin_ / "dagster-webserver"), *listen, *workspace]


def serve(part: Part, settings: Settings) -> NoReturn:
    """Become a part; this process does not come back from it.

    Raises:
        SettingsError: no target or source is set, or a code server runs already.
        TargetError: the target does not answer.
    """
    # Nobody would stop the embedded server, and a sample is nothing to keep in step.
    sources = {each.setting: settings.source_url(each) for each in settings.enabled}
    for name, given in {"DATABASE_URL": settings.given_target, **sources}.items():
        if not given:
            raise SettingsError(
                f"{name} is not set",
                remedy="Set it, take its migration out of MIGRATIONS, or try the samples with"
                " pipeline dev",
            )
    if part is Part.CODE and answers(settings.code_socket):
        raise SettingsError(
            f"A code server listens on {settings.code_socket} already",
            remedy="End it first, or give this one another PIPELINE_HOME",
        )
    storage.ready(settings, home=HOME)
    if part is not Part.CODE:
        _await_code(settings.code_socket)
    os.environ[CODE_SOCKET] = str(settings.code_socket)
    os.chdir(PROJECT)
    # Dagster treats SIGTERM as it treats SIGINT, which is ignored in what a shell put aside.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = command(part, settings, home=HOME)
    os.execv(program[0], program)  # noqa: S606  # no shell is wanted


def _await_code(socket: Path) -> None:
    """Spare the others the search for a code server that is starting; in the end they look."""
    until = time.monotonic() + _CODE_SECONDS
    while not answers(socket) and time.monotonic() < until:
        time.sleep(0.5)


def answers(socket: Path) -> bool:
    """Whether a code server listens on a socket, and has loaded its code."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        DagsterGrpcClient(socket=str(socket)).ping("pipeline")
    except DagsterUserCodeUnreachableError:
        return False
    return True
