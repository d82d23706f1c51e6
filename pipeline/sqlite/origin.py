"""Where a source comes from, read from the URL that a setting gives; nothing is opened here."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pipeline.core import urls
from pipeline.core.errors import SettingsError

_PROJECT = Path(__file__).resolve().parent.parent.parent
TOKEN = "TURSO_AUTH_TOKEN"  # noqa: S105
"""The setting that holds a Turso database's token."""
_REMOTE = ("libsql", "https", "http")
_FORMS = "dump:///PATH for a dump, libsql://HOST for a database on Turso"


@dataclass(frozen=True)
class File:
    """An SQLite file, read and written where it lies."""

    path: Path

    @property
    def shown(self) -> str:
        """What people call it."""
        return str(self.path)


@dataclass(frozen=True)
class Dump:
    """A text that makes a database, as ``turso db shell NAME .dump`` writes it."""

    path: Path

    @property
    def shown(self) -> str:
        """What people call it."""
        return f"the dump {self.path}"


@dataclass(frozen=True)
class Remote:
    """A database on a server of Turso.

    Attributes:
        url: how it is reached, ``https://HOST`` or ``http://HOST:PORT``.
        token: lets us in; None where the server asks for none.
    """

    url: str
    token: SecretStr | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """What people call it."""
        return f"libsql://{self.url.removeprefix('https://')}" if self.secure else self.url

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read along."""
        return self.url.startswith("https://")


Origin = File | Dump | Remote


def place(origin: Origin, *, home: Path) -> Path:
    """The SQLite file that is read: the origin's own, or one in a folder of its own.

    Databases are kept apart by a digest of where they come from.

    Args:
        origin: where the source comes from.
        home: where the pipeline keeps its files.
    """
    match origin:
        case File(path):
            return path
        case Dump(path):
            whence = f"dump {path.absolute()}"
        case Remote(url):
            whence = f"remote {url}"
    return home / "sources" / hashlib.sha256(whence.encode()).hexdigest()[:16] / "source.db"


def parse(url: str, *, token: SecretStr | None, name: str) -> Origin:
    """Read the URL of a source; relative paths begin at the project's folder.

    Args:
        url: what the setting holds.
        token: what a database on Turso asks for.
        name: the setting, for messages.

    Raises:
        SettingsError: the URL has another form; nothing of it is repeated.
    """
    if _scheme(url) in _REMOTE:
        return _remote(url, token=token, name=name)
    parsed = _parsed(url)
    if parsed is None:
        raise SettingsError(f"{name} is not a URL", remedy="See .env.example for its form")
    kind = parsed.get_backend_name()
    path = parsed.database if parsed.host is None and parsed.username is None else None
    if kind not in ("sqlite", "dump") or not path or path == ":memory:":
        raise SettingsError(
            f"{name} does not name an SQLite {'dump' if kind == 'dump' else 'file'}",
            remedy=f"Write it as sqlite:///PATH, with four slashes for an absolute path; {_FORMS}",
        )
    made = Dump if kind == "dump" else File
    return made(_PROJECT / path)


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
            f"{name} names no server", remedy=f"Write it as sqlite:///PATH; {_FORMS}"
        )
    host, port = parts.hostname, parts.port
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise SettingsError(
            f"{name} has more than a server's name: a user, a password, a path or a query",
            remedy=f"Write it as libsql://HOST, and put the token into {TOKEN}",
        )
    secret = token.get_secret_value().strip() if token else ""
    if not secret.isascii() or any(not " " < letter <= "~" for letter in secret):
        raise SettingsError(
            f"{TOKEN} is no token", remedy="Make one with turso db tokens create NAME"
        )
    scheme = "http" if parts.scheme.lower() == "http" else "https"
    server = f"[{host}]" if ":" in host else host
    at = f"{scheme}://{server}{f':{port}' if port else ''}"
    return Remote(at, SecretStr(secret) if secret else None)
