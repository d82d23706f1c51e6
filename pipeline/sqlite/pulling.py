"""Update of a replica in a separate process, which ``replica`` starts.

Turso's package uses its own SQLite library, and two libraries with the same file open in one
process drop each other's locks. The token is passed by standard input, where other users cannot see
it; the result is written to standard output as JSON.
"""

import json
import socket
import sys

from pipeline.core import private

SILENT_SECONDS = 60.0
"""The timeout of the network."""


def main() -> None:
    """Pull, and write the WAL of the replica to its file."""
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
        text = str(error).replace(token, "***") if token else str(error)
        json.dump({"error": text}, sys.stdout)
        sys.exit(1)
    json.dump({"changed": changed, "revision": revision}, sys.stdout)


if __name__ == "__main__":
    main()
