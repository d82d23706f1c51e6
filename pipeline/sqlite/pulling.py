"""Bring a replica up to date, in a process of its own; ``replica`` starts it.

The package keeps the replica with an SQLite of its own, and two of them with one file open in one
process drop each other's locks. The token comes by standard input, where nobody else sees it; what
happened goes to standard output as JSON.
"""

import json
import socket
import sys

from pipeline.core import private

SILENT_SECONDS = 60.0
"""A server that says nothing for so long is given up."""


def main() -> None:
    """Pull, and leave all of the replica in its one file."""
    path, url = sys.argv[1:]
    private.guard_process()
    token = sys.stdin.readline().strip()
    socket.setdefaulttimeout(SILENT_SECONDS)
    import turso.sync

    try:
        replica = turso.sync.connect(path, url, auth_token=token or None, client_name="pipeline")
        changed = replica.pull()
        replica.checkpoint()
        revision = replica.stats().revision
        replica.close()
    except turso.sync.Error as error:
        said = str(error).replace(token, "***") if token else str(error)
        json.dump({"error": said}, sys.stdout)
        sys.exit(1)
    json.dump({"changed": changed, "revision": revision}, sys.stdout)


if __name__ == "__main__":
    main()
