"""Parsing of the URL of a source; nothing is opened here."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pipeline.core import urls
from pipeline.core.errors import SettingsError
from pipeline.core.private import PROJECT

TOKEN = "TURSO_AUTH_TOKEN"  # noqa: S105
"""The setting with the token of a Turso database."""
_REMOTE = ("libsql", "https", "http")
_FORMS = "dump:///PATH for a dump, libsql://HOST for a database on Turso"
_REMEDY = f"Write it as sqlite:///PATH, with four slashes for an absolute path; {_FORMS}"


@dataclass(frozen=True)
class File:
    """An SQLite file, read and written in place."""

    path: Path

    @property
    def shown(self) -> str:
        """The name in messages."""
        return str(self.path)


@dataclass(frozen=True)
class Dump:
    """An SQL text in the form of ``turso db shell NAME .dump``."""

    path: Path

    @property
    def shown(self) -> str:
        """The name in messages."""
        return f"the dump {self.path}"


@dataclass(frozen=True)
class Remote:
    """A database on a Turso server.

    Attributes:
        url: ``https://HOST`` or ``http://HOST:PORT``.
        token: the access token; None if the server requires none.
    """

    url: str
    token: SecretStr | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The name in messages."""
        return f"libsql://{self.url.removeprefix('https://')}" if self.secure else self.url

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("https://")


Origin = File | Dump | Remote


def place(origin: Origin, *, home: Path) -> Path:
    """The SQLite file to read: the source itself, or its copy under ``home``.

    The folder of a copy is named after a digest of the origin.
    """
    match origin:
        case File(path):
            return path
        case Dump(path):
            identity = f"dump {path.absolute()}"
        case Remote(url):
            identity = f"remote {url}"
    return home / "sources" / hashlib.sha256(identity.encode()).hexdigest()[:16] / "source.db"


def parse(url: str, *, token: SecretStr | None, name: str, folder: Path = PROJECT) -> Origin:
    """Parse the URL of a source.

    ``name`` is the setting in messages; relative paths start at ``folder``.

    Raises:
        SettingsError: the URL is malformed; the message contains nothing of it.
    """
    if _scheme(url) in _REMOTE:
        return _remote(url, token=token, name=name)
    parsed = _parsed(url)
    if parsed is None:
        raise SettingsError(f"{name} is not a URL", remedy=_REMEDY)
    kind = parsed.get_backend_name()
    path = parsed.database if parsed.host is None and parsed.username is None else None
    if kind not in ("sqlite", "dump") or not path or path == ":memory:":
        raise SettingsError(
            f"{name} does not name an SQLite {'dump' if kind == 'dump' else 'file'}",
            remedy=_REMEDY,
        )
    return (Dump if kind == "dump" else File)(folder / path)


def _parsed(url: str) -> URL | None:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _remote(url: str, *, token: SecretStr | None, name: str) -> Remote:
    parts = urls.server(url.strip(), _REMOTE)
    if parts is None or parts.hostname is None:
        raise SettingsError(
            f"{name} does not name a server", remedy=f"Write it as sqlite:///PATH; {_FORMS}"
        )
    host, port = parts.hostname, parts.port
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise SettingsError(
            f"{name} contains more than the name of a server: a user, a password, a path or a"
            " query",
            remedy=f"Write it as libsql://HOST, and set {TOKEN} to the token",
        )
    secret = token.get_secret_value().strip() if token else ""
    if not secret.isascii() or any(not " " < letter <= "~" for letter in secret):
        raise SettingsError(
            f"{TOKEN} is not a token", remedy="Create one with turso db tokens create NAME"
        )
    scheme = "http" if parts.scheme.lower() == "http" else "https"
    server = f"[{host}]" if ":" in host else host
    at = f"{scheme}://{server}{f':{port}' if port else ''}"
    return Remote(at, SecretStr(secret) if secret else None)
