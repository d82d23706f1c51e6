"""Runs that a command started: their process, their command line, and where the UI lists them."""

import os
import shlex
import socket
import sys
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import CODE_LOCATION_TAG

from pipeline.config.settings import Settings

LOCATION = "pipeline"
"""The name of the code location in all workspaces."""
TAG = "pipeline/process"
"""The tag with a run's process: host, PID and start time, so that a reused PID does not match."""
COMMAND = "pipeline/command"
"""The tag with the command line that started a run."""
_OURS = "pipeline/"
_LETTERS = 200


def tags(settings: Settings) -> dict[str, str]:
    """The tags of a run that this process starts."""
    program, *arguments = sys.argv
    # Other programs, such as tests, have other arguments.
    if Path(program).name not in ("pipeline", "__main__.py"):
        return {TAG: mine()}
    line = settings.without_secrets(shlex.join(["pipeline", *arguments]))
    return {TAG: mine(), COMMAND: line[:_LETTERS]}


def located(run: dg.DagsterRun) -> dg.DagsterRun:
    """A new run as the UI needs it.

    The UI lists runs by job and code location. Dagster records the location of runs that it
    launches, so it is added to runs of commands. Runs that the UI starts again take over all tags,
    so ours are removed from them: they name the process and the evidence of the first run.
    """
    if run.remote_job_origin is not None:
        kept = {key: value for key, value in run.tags.items() if not key.startswith(_OURS)}
        return run.with_tags(kept)
    if TAG not in run.tags:
        return run
    repository = RemoteRepositoryOrigin(
        RegisteredCodeLocationOrigin(LOCATION), SINGLETON_REPOSITORY_NAME
    )
    return run.with_job_origin(repository.get_job_origin(run.job_name)).with_tags(
        {**run.tags, CODE_LOCATION_TAG: LOCATION}
    )


def mine() -> str:
    """The tag's value for this process."""
    return _named(os.getpid())


def gone(run: dg.DagsterRun) -> bool:
    """Whether a command on this machine started the run and its process no longer exists."""
    named = run.tags.get(TAG, "")
    host, _, rest = named.partition(" ")
    return host == socket.gethostname() and named != _named(int(rest.split()[0]))


def _named(number: int) -> str:
    try:
        started = int(psutil.Process(number).create_time())
    except psutil.NoSuchProcess:
        started = 0
    return f"{socket.gethostname()} {number} {started}"
