"""What other users of the machine may do with files."""

import os
import stat
from pathlib import Path


def loose(home: Path) -> set[str]:
    """What others may do anything with, in a folder or the folder itself."""
    found = set()
    for path in (home, *home.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        # Root lets the embedded server's user pass, by an entry of its own.
        allowed = 0o010 if path == home and os.geteuid() == 0 else 0
        if not stat.S_ISLNK(mode) and mode & 0o077 & ~allowed:
            found.add(f"{path.relative_to(home)} {stat.filemode(mode)}")
    return found
