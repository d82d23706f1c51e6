"""URLs of databases and servers, read only where there is one way to read them.

An ``@``, ``/`` or ``?`` of a password that is not escaped ends a part of the URL before its writer
meant to. The rest of the password would pass for a host, which is shown and asked of DNS. So a URL
is taken apart only if its characters allow one reading, and that of a PostgreSQL database only if
the two libraries that are going to read it agree. No error repeats any part of a URL.
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
"""What people are told to do about a URL that can be read in more than one way."""

_FORM = "Write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_NAME = r"[\w.-]+"
_SERVER = re.compile(
    # As RFC 3986 has it, so every library finds the same host.
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
    """The URL of a server, taken apart; None if it has another form or more than one reading.

    Args:
        text: the URL.
        schemes: those that it may have.
    """
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
    """The URL of a PostgreSQL database.

    Args:
        text: the URL.
        name: where it was given, for messages.

    Raises:
        SettingsError: it has another form, or more than one reading.
    """
    scheme, _, rest = text.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(f"{name} is not a PostgreSQL URL", remedy=_FORM)
    found = _DATABASE.fullmatch(rest)
    one_way = found is not None and rest.isprintable() and _decodes(found["login"])
    agreed = _agreed(text) if one_way else None
    if agreed is not None:
        return agreed
    if one_way and _agreed(text.partition("?")[0]) is not None:
        raise SettingsError(
            f"{name} has an option after its ? that PostgreSQL does not know, or that cannot be"
            " read in one way only",
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
    """What SQLAlchemy and libpq both read; None where they differ, or one of them cannot."""
    try:
        url = make_url(text)
        named = url.translate_connect_args(username="user", database="dbname")
        if named.keys() & url.query.keys():
            return None  # said twice: what people are shown would not be what is meant
        ours = named | dict(url.query)
        theirs = parse_dsn(f"postgresql://{text.partition('://')[2]}")
    except (ArgumentError, ValueError, psycopg2.ProgrammingError):
        return None
    same = all(_plain(key, ours.get(key)) == _plain(key, theirs.get(key)) for key in _AGREED)
    return url if same else None


def _plain(key: str, value: object) -> object:
    if key == "port":
        # Of several hosts, libpq lists a port each.
        return {port or "5432" for port in str(value or "").split(",")}
    return value or None
