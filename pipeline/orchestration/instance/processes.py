"""The process of a run that a command started."""

import os
import socket

import dagster as dg
import psutil

TAG = "pipeline/process"
"""The tag with a run's process: host, PID and start time, so that a reused PID does not match."""


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
