"""The desktop program with the add-on AnkiConnect, where somebody has both.

``ANKI_CONNECT_ADDON`` names the add-on's folder, which holds its ``__init__.py``.
``ANKI_DESKTOP_PYTHON`` is a Python with the package ``aqt[qt6]``; the tests' own by default. No
screen is needed. Neither is part of the project.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

ADDON = os.environ.get("ANKI_CONNECT_ADDON", "")
PYTHON = os.environ.get("ANKI_DESKTOP_PYTHON", sys.executable)
PROFILE = "User 1"
_START = f"""
import sys
from pathlib import Path
import aqt
from aqt.profiles import ProfileManager
profiles = ProfileManager(Path(sys.argv[1]))
profiles.setupMeta()
profiles.setLang("en")
profiles.create({PROFILE!r})
sys.argv = ["anki", "-b", sys.argv[1], "-p", {PROFILE!r}]
aqt.run()
"""


@contextmanager
def desktop(folder: Path) -> Iterator[str]:
    """The desktop program with a profile of its own in a folder; the address of AnkiConnect."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    base = folder / "Anki2"
    addon = base / "addons21" / "ankiconnect"
    shutil.copytree(ADDON, addon)
    config = {"webBindAddress": "127.0.0.1", "webBindPort": port}
    (addon / "meta.json").write_text(json.dumps({"config": config}))
    quiet = {
        "HOME": str(folder),
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
        "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox",
    }
    with (folder / "anki.log").open("w") as log:
        process = subprocess.Popen(
            [PYTHON, "-c", _START, str(base)],
            env={**os.environ, **quiet},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, folder / "anki.log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url: str, action: str, **parameters: Any) -> Any:
    """The result of an action of AnkiConnect."""
    request = {"action": action, "version": 6, "params": parameters}
    answer = httpx.post(url, json=request, timeout=30).json()
    assert answer["error"] is None, answer
    return answer["result"]


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            ask(url, "deckNames")
        except (httpx.TransportError, AssertionError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"Anki does not answer: {log.read_text()[-2000:]}")
