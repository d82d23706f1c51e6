"""The processes that run for good: the code server, the UI's webserver and the daemon.

Each takes the place of ``pipeline serve`` once the settings are found usable: the webserver is
``serving.web``, the others are Dagster's own programs. Runs are processes of the code server's; the
other two reach it by a Unix socket, so nobody else on the machine or in the network can.
"""

import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from pipeline.config.origins import is_loopback
from pipeline.config.settings import CODE_SOCKET, PROJECT, Settings
from pipeline.core.errors import SettingsError
from pipeline.core.messages import DEV, message

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
    bin_ = Path(sys.prefix) / "bin"
    if part is Part.CODE:
        listen = ["--socket", str(settings.code_socket), "--location-name", "pipeline"]
        return [
            str(bin_ / "dagster"),
            "api",
            "grpc",
            "-m",
            "pipeline.orchestration.definitions",
            *listen,
        ]
    if part is Part.DAEMON:
        return [str(bin_ / "dagster-daemon"), "run", "-w", str(home / "workspace.yaml")]
    listen = [settings.ui_host, str(settings.ui_port)]
    return [
        sys.executable,
        "-m",
        "pipeline.orchestration.serving.web",
        str(home / "workspace.yaml"),
        *listen,
    ]


def serve(part: Part, settings: Settings) -> NoReturn:
    """Become a part; this process does not come back from it.

    Raises:
        SettingsError: no target or source is set, a code server runs already, or others than this
            machine would reach the UI without a login.
        TargetError: the target does not answer.
    """
    # Dagster is loaded only where it is needed.
    from pipeline.orchestration.instance import storage

    # Nobody would stop the embedded server, and a sample is nothing to keep in step.
    sources = {each.setting: settings.source_url(each) for each in settings.enabled}
    for name, given in {"DATABASE_URL": settings.given_target, **sources}.items():
        if not given:
            raise SettingsError(
                f"{name} is not set",
                remedy=message(
                    "Set it, take its migration out of MIGRATIONS, or try the samples with ", DEV
                ),
            )
    if part is Part.WEBSERVER:
        require_login(settings)
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
    keep_sockets_private()
    # Dagster treats SIGTERM as it treats SIGINT, which is ignored in what a shell put aside.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = command(part, settings, home=HOME)
    os.execv(program[0], program)  # noqa: S606  # no shell is wanted


def require_login(settings: Settings) -> None:
    """Refuse to open the UI to other machines without a login.

    Raises:
        SettingsError: it would be.
    """
    ui = settings.ui
    if not (is_loopback(settings.ui_host) or ui.has_login or ui.without_login):
        raise SettingsError(
            f"UI_HOST is {settings.ui_host}, and other machines could start runs without a login",
            remedy="Set UI_PASSWORD, or UI_USER_HEADER where a proxy asks; UI_WITHOUT_LOGIN=true"
            " allows it where nobody else can reach that address",
        )


def keep_sockets_private() -> None:
    """Let nobody else write to sockets of code servers: who can, starts runs."""
    os.umask(os.umask(0o077) | 0o022)


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
