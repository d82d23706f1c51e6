"""The text of a dump as UTF-8: compressed with gzip or not, with or without a byte order mark.

Windows PowerShell redirects the output of a program as UTF-16, and editors add a byte order mark.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pipeline.core.errors import SourceError

_GZIP = b"\x1f\x8b"
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_HEAD_BYTES = 4096
_PIECE = 2**20

_OTHER_FORMATS = (
    (rb"\x28\xb5\x2f\xfd", "is compressed with zstd", "Decompress it first: zstd -d {path}"),
    (rb"\xfd7zXZ\x00", "is compressed with xz", "Decompress it first: xz -dk {path}"),
    (rb"BZh\d", "is compressed with bzip2", "Decompress it first: bzip2 -dk {path}"),
    (rb"PK\x03\x04", "is a ZIP archive", "Unpack it first"),
    (
        rb"SQLite format 3\x00",
        "is an SQLite database, not a dump",
        "Use it directly: sqlite:///{path}",
    ),
    (
        rb"PGDMP|(?s:.*)^-- PostgreSQL database",
        "is a dump of PostgreSQL, not of SQLite",
        "Use a dump that sqlite3 FILE .dump or turso db shell NAME .dump has written",
    ),
    (
        rb"(?s:.*)^-- (?:MySQL|MariaDB|phpMyAdmin|Host:.*Database:)",
        "is a dump of MySQL or MariaDB, not of SQLite",
        "Use a dump that sqlite3 FILE .dump or turso db shell NAME .dump has written",
    ),
)


class Readable(Protocol):
    """Bytes that are read in pieces; an empty piece is the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""


@contextmanager
def opened(path: Path) -> Iterator[Readable]:
    """The text of a dump, as UTF-8 without a byte order mark.

    Raises:
        SourceError: the file is damaged.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        yield _Text(path, gzip.GzipFile(fileobj=file) if compressed else file)


def size(path: Path) -> int:
    """The size of the text in bytes, decompressed."""
    with path.open("rb") as file:
        if file.read(len(_GZIP)) != _GZIP:
            return path.stat().st_size
    counted = 0
    with opened(path) as text:
        while piece := text.read(_PIECE):
            counted += len(piece)
    return counted


def other_format(path: Path) -> tuple[str, str] | None:
    """What a file is, and what to do, if it is certainly no dump of SQLite."""
    with opened(path) as text:
        head = text.read(_HEAD_BYTES)
    for pattern, problem, remedy in _OTHER_FORMATS:
        if re.match(pattern, head, re.M):
            return problem, remedy.format(path=path)
    return None


class _Text:
    """A file that is decoded while it is read."""

    def __init__(self, path: Path, file: Readable) -> None:
        self._path, self._file = path, file
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ahead = self._raw(_HEAD_BYTES)
        if self._ahead.startswith(codecs.BOM_UTF8):
            self._ahead = self._ahead[len(codecs.BOM_UTF8) :]
        elif encoding := _UTF_16.get(self._ahead[:2]):
            self._decoder = codecs.getincrementaldecoder(encoding)()
            self._ahead = self._decoded(self._ahead[2:])

    def read(self, size: int, /) -> bytes:
        """The next bytes, about as many."""
        if self._ahead:
            found, self._ahead = self._ahead, b""
            return found
        while raw := self._raw(size):
            found = self._decoded(raw)
            if found:
                return found
        return self._decoded(b"")

    def _raw(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(
                f"{self._path} cannot be decompressed ({error})",
                remedy="Copy or create it again; it may be incomplete",
            ) from error

    def _decoded(self, raw: bytes) -> bytes:
        if self._decoder is None:
            return raw
        try:
            return self._decoder.decode(raw, final=not raw).encode()
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self._path} is not valid UTF-16, which its byte order mark announces"
                f" ({error.reason})",
                remedy="Create it again, if possible as UTF-8: sqlite3 FILE .dump, redirected by"
                " cmd.exe or a Unix shell",
            ) from error
