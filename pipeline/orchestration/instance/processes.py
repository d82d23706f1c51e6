"""Which process a run has that was started by a command, and whether it is still there."""

import os
import socket

import dagster as dg
import psutil

TAG = "pipeline/process"
"""Tag that names a run's process: host, number and start, so that a reused number is no match."""


def mine() -> str:
    """This process."""
    return _named(os.getpid())


def gone(run: dg.DagsterRun) -> bool:
    """Whether a command of this machine had this run, and has ended without a word."""
    named = run.tags.get(TAG, "")
    host, _, rest = named.partition(" ")
    return host == socket.gethostname() and named != _named(int(rest.split()[0]))


def _named(number: int) -> str:
    try:
        started = int(psutil.Process(number).create_time())
    except psutil.NoSuchProcess:
        started = 0
    return f"{socket.gethostname()} {number} {started}"
