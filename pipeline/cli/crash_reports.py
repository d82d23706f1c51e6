"""A fault of the program itself: developers get its traceback in a file, people one sentence."""

import sys
import traceback
from datetime import UTC, datetime

from pipeline.config import settings
from pipeline.core import private
from pipeline.core.errors import PipelineError


class ProgramFault(PipelineError):
    """The program failed in a way that nobody foresaw."""


def reported(error: Exception) -> ProgramFault | None:
    """What is said of an unforeseen error, once its traceback is in a file without secrets.

    Returns:
        None where it could not be written.
    """
    try:
        loaded = settings.load()
        told = loaded.without_secrets("".join(traceback.format_exception(error)))
        path = private.folder(loaded.faults) / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}.txt"
        private.write_text(path, f"pipeline {' '.join(sys.argv[1:])}\n{told}")
    except (PipelineError, OSError):
        return None
    return ProgramFault(
        f"This is a fault of the program ({type(error).__name__})",
        remedy=f"Report it with the traceback in {path}",
    )
