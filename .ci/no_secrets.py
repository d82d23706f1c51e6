"""Keys and passwords in tracked files: only those may be there that somebody has looked at.

Exit code 1 where there is another one. ``--accept`` notes what is there now in
``secrets.json`` beside this file, by digests.
"""

import json
import subprocess
import sys
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.settings import default_settings

BASELINE = Path(__file__).with_name("secrets.json")
OF_NO_INTEREST = ("requirements.lock", ".ci/secrets.json")
"""Both are made of digests."""


def main() -> int:
    """Scan what git tracks in the current folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    paths = [name for name in listed.stdout.split("\0") if name not in OF_NO_INTEREST]
    found = SecretsCollection()
    with default_settings():
        # One by one: the pool of processes that scan_files starts sometimes never ends.
        for name in paths:
            if name and Path(name).is_file():
                found.scan_file(name)
    lines = {(name, each.type, each.secret_hash): each.line_number for name, each in found}
    if sys.argv[1:] == ["--accept"]:
        BASELINE.write_text(json.dumps(sorted(lines), indent=1) + "\n")
        return 0
    known = {tuple(entry) for entry in json.loads(BASELINE.read_text())}
    new = sorted(lines.keys() - known)
    for name, kind, digest in new:
        print(f"{name}:{lines[name, kind, digest]}: {kind}")
    if new:
        print(
            f"{len(new)} that nobody has looked at. A real one is to be withdrawn where it is"
            " valid; else run .venv/bin/python .ci/no_secrets.py --accept"
        )
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
