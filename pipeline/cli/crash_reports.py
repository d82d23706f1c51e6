"""Faults of the program: the traceback goes into a file, the user gets one sentence."""

import sys
import traceback
from datetime import UTC, datetime

from pipeline.config import settings
from pipeline.core import private
from pipeline.core.errors import PipelineError


class ProgramFault(PipelineError):
    """An unforeseen failure of the program."""


def reported(error: Exception) -> ProgramFault | None:
    """Write the traceback of an unforeseen error to a file, without secrets.

    Returns:
        The error to report; None if the file cannot be written.
    """
    try:
        loaded = settings.load()
        report = loaded.without_secrets("".join(traceback.format_exception(error)))
        path = private.folder(loaded.faults) / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}.txt"
        private.write_text(path, f"pipeline {' '.join(sys.argv[1:])}\n{report}")
    except (PipelineError, OSError):
        return None
    return ProgramFault(
        f"This is a bug in the pipeline ({type(error).__name__})",
        remedy=f"Report it with the traceback in {path}",
    )
