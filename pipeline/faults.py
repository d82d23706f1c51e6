"""A fault of the program itself: developers get its traceback in a file, people one sentence."""

import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from pipeline import settings
from pipeline.move.errors import PipelineError


class Fault(PipelineError):
    """The program failed in a way that nobody foresaw."""


def kept(error: Exception) -> Fault | None:
    """What is said of an unforeseen error, once its traceback is in a file without secrets.

    Returns:
        None where it could not be written.
    """
    try:
        loaded = settings.load()
        told = loaded.without_secrets("".join(traceback.format_exception(error)))
        path = _new_file(loaded.faults)
        path.write_text(f"pipeline {' '.join(sys.argv[1:])}\n{told}", encoding="utf-8")
    except (PipelineError, OSError):
        return None
    return Fault(
        f"This is a fault of the program ({type(error).__name__})",
        remedy=f"Report it with the traceback in {path}",
    )


def _new_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}.txt"
    path.touch(mode=0o600)
    return path
