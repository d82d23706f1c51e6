"""A terminal in the place of standard output."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Standard output is a terminal; what it has shown."""
    outer, inner = os.openpty()
    shown = list[bytes]()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(outer, 65536):
                shown.append(data)

    reader = threading.Thread(target=read)
    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        reader.start()
        yield shown
    reader.join(timeout=5)
    os.close(outer)


def text(shown: list[bytes]) -> str:
    """What a terminal has shown, without its control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(shown).decode())
