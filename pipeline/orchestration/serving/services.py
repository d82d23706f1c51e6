"""The long-running services: the code server, the UI's webserver and the daemon.

``pipeline serve`` checks the settings and then becomes the service: the webserver is
``serving.web``, the others are Dagster's own programs. Runs are child processes of the code server.
The other services reach it through a Unix socket, which nobody else on the machine can open.
"""

import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from pipeline.config import records
from pipeline.config.settings import CODE_SOCKET, PROJECT, Settings
from pipeline.config.web_origins import is_loopback
from pipeline.core.errors import SettingsError
from pipeline.core.messages import DEV, message
from pipeline.core.private import FILES

HOME = FILES / "deploy"
"""The folder with dagster.yaml and workspace.yaml of the services."""

_CODE_SECONDS = 60.0


class Service(StrEnum):
    """A long-running service."""

    CODE = "code"
    WEBSERVER = "webserver"
    DAEMON = "daemon"


def command(part: Service, settings: Settings, *, home: Path) -> list[str]:
    """The command line of a service; ``home`` is the folder of workspace.yaml."""
    if part is Service.CODE:
        listen = ["--socket", str(settings.code_socket), "--location-name", "pipeline"]
        served = ["api", "grpc", "-m", "pipeline.orchestration.definitions"]
        return [sys.executable, "-m", "dagster", *served, *listen]
    if part is Service.DAEMON:
        workspace = str(home / "workspace.yaml")
        return [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace]
    listen = [settings.ui_host, str(settings.ui_port)]
    return [
        sys.executable,
        "-m",
        "pipeline.orchestration.serving.web",
        str(home / "workspace.yaml"),
        *listen,
    ]


def serve(part: Service, settings: Settings) -> NoReturn:
    """Replace this process with a service.

    Raises:
        SettingsError: no target, source or database of Dagster's records is set, a code server is
            already running, or other machines could reach the UI without a login.
        TargetError: the target does not answer.
    """
    # Dagster is loaded only where it is needed.
    from pipeline.orchestration.instance import storage

    # Nobody would stop the embedded server, and a sample needs no syncs.
    sources = {each.setting: settings.source_url(each) for each in settings.enabled}
    for name, given in {"DATABASE_URL": settings.configured_target, **sources}.items():
        if not given:
            raise SettingsError(
                f"{name} is not set",
                remedy=message(
                    "Set it, remove its migration from MIGRATIONS, or try the samples with ", DEV
                ),
            )
    records.require_shared(settings)
    if part is Service.WEBSERVER:
        require_login(settings)
    if part is Service.CODE and answers(settings.code_socket):
        raise SettingsError(
            f"A code server is already listening on {settings.code_socket}",
            remedy="Stop it first, or set another PIPELINE_HOME",
        )
    storage.ready(settings, home=HOME, for_a_run=False)
    if part is not Service.CODE:
        _await_code(settings.code_socket)
    os.environ[CODE_SOCKET] = str(settings.code_socket)
    os.chdir(PROJECT)
    keep_sockets_private()
    # Dagster handles SIGTERM like SIGINT, which background processes of a shell ignore.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = command(part, settings, home=HOME)
    os.execv(program[0], program)  # noqa: S606  # no shell is wanted


def require_login(settings: Settings) -> None:
    """Refuse to serve the UI to other machines without a login.

    Raises:
        SettingsError: no login is configured.
    """
    ui = settings.ui
    if not (is_loopback(settings.ui_host) or ui.has_login or ui.without_login):
        raise SettingsError(
            f"UI_HOST is {settings.ui_host}, so other machines could start runs without a login",
            remedy="Set UI_PASSWORD, or UI_USER_HEADER if a proxy authenticates users;"
            " set UI_WITHOUT_LOGIN=true if nobody else can reach that address",
        )


def keep_sockets_private() -> None:
    """Create sockets of code servers that only this user can write to."""
    os.umask(os.umask(0o077) | 0o022)


def _await_code(socket: Path) -> None:
    """Wait for a code server that is starting; after the time limit Dagster searches for it."""
    until = time.monotonic() + _CODE_SECONDS
    while not answers(socket) and time.monotonic() < until:
        time.sleep(0.5)


def answers(socket: Path) -> bool:
    """Whether a code server answers on a socket and has loaded its code."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        DagsterGrpcClient(socket=str(socket)).ping("pipeline")
    except DagsterUserCodeUnreachableError:
        return False
    return True
