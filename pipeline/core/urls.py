"""Parsing of URLs of databases and servers; ambiguous URLs are rejected.

An unescaped ``@``, ``/`` or ``?`` in a password ends a part of the URL too early. The rest of the
password would then be taken for a host name, which is displayed and sent to DNS. So a URL is
accepted only if its characters allow one interpretation. The URL of a PostgreSQL database must also
be interpreted equally by the two libraries that use it. Errors never contain a part of a URL.
"""

import re
from collections.abc import Collection
from urllib.parse import SplitResult, unquote, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pipeline.core.errors import SettingsError

ESCAPED = (
    "in its user and password write % as %25, @ as %40, : as %3A, / as %2F, ? as %3F, # as %23,"
    " [ as %5B, ] as %5D and a space as %20"
)
"""The remedy for an ambiguous URL."""

_FORM = "Write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_NAME = r"[\w.-]+"
_SERVER = re.compile(
    # According to RFC 3986, so every library finds the same host.
    r"(?P<head>(?P<login>(?:%[0-9A-Fa-f]{2}|[^\s%@/?#\[\]\\])*@)?"
    rf"(?:{_NAME}|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]*)?)(?P<tail>[/?#]\S*)?"
)
_DATABASE = re.compile(
    r"(?P<login>(?:%[0-9A-Fa-f]{2}|[^\s%@/?])*@)?"
    rf"(?:{_NAME}(?:,{_NAME})*|\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?"
    r"(?:[/?](?:%[0-9A-Fa-f]{2}|[^\s%@])*)?"
)
_AGREED = ("user", "password", "host", "port", "dbname", "sslpassword")


def server(text: str, schemes: Collection[str]) -> SplitResult | None:
    """Split the URL of a server; None if it is malformed, ambiguous or has another scheme."""
    found = _SERVER.fullmatch(text.partition("://")[2])
    if found is None or not text.isprintable() or not _decodes(found["login"]):
        return None
    if "@" in (found["tail"] or "") and (found["login"] or found["port"]):
        # "user:12/34@host" and the path "/34@host" of a server "user:12" look the same.
        return None
    try:
        parts = urlsplit(text)
        return parts if parts.scheme in schemes and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def postgres(text: str, *, name: str) -> URL:
    """Parse the URL of a PostgreSQL database.

    ``name`` is the setting in messages.

    Raises:
        SettingsError: the URL is malformed or ambiguous.
    """
    scheme, _, rest = text.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(f"{name} is not a PostgreSQL URL", remedy=_FORM)
    found = _DATABASE.fullmatch(rest)
    unambiguous = found is not None and rest.isprintable() and _decodes(found["login"])
    agreed = _agreed(text) if unambiguous else None
    if agreed is not None:
        return agreed
    if unambiguous and _agreed(text.partition("?")[0]) is not None:
        raise SettingsError(
            f"{name} has an unknown or ambiguous option after the ?",
            remedy="Correct or remove it; in its value write + as %2B, & as %26 and = as %3D",
        )
    raise SettingsError(f"{name} is malformed or ambiguous", remedy=f"{_FORM}; {ESCAPED}")


def _decodes(login: str | None) -> bool:
    try:
        unquote(login or "", errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _agreed(text: str) -> URL | None:
    """The URL if SQLAlchemy and libpq interpret it equally; None if they differ or one fails."""
    try:
        url = make_url(text)
        named = url.translate_connect_args(username="user", database="dbname")
        if named.keys() & url.query.keys():
            return None  # given twice: the displayed value might not be the one in use
        ours = named | dict(url.query)
        theirs = parse_dsn(f"postgresql://{text.partition('://')[2]}")
    except (ArgumentError, ValueError, psycopg2.ProgrammingError):
        return None
    same = all(
        _comparable(key, ours.get(key)) == _comparable(key, theirs.get(key)) for key in _AGREED
    )
    return url if same else None


def _comparable(key: str, value: object) -> object:
    if key == "port":
        # libpq lists one port per host.
        return {port or "5432" for port in str(value or "").split(",")}
    return value or None
