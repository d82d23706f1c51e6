"""Host names and origins of the UI.

A browser sends the server's name in ``Host`` and the origin of the requesting page in ``Origin``; a
page can forge neither. Names are compared as in browsers: case, the default port and a trailing dot
do not matter (RFC 6454, RFC 9110).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_-])\.?(?::([0-9]{1,5}))?", re.IGNORECASE)
_SCHEMES = {"http": 80, "https": 443}
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  # compared, not bound


@dataclass(frozen=True)
class Host:
    """The server that a request names, normalized.

    Attributes:
        name: in lower case, an IPv6 address without brackets.
        port: None if the request names none.
    """

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Host":
        """Read ``NAME``, ``NAME:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

        Raises:
            ValueError: the text is malformed.
        """
        found = _HOST.fullmatch(text)
        if found is None:
            raise ValueError("not a host")
        name, port = found[1].lower(), found[2]
        if name.startswith("["):
            name = str(ipaddress.IPv6Address(name[1:-1]))
        if port is not None and not 0 < int(port) < 2**16:
            raise ValueError("not a port")
        return cls(name, None if port is None else int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether the name is a loopback name or address."""
        return is_loopback(self.name)


@dataclass(frozen=True)
class Origin:
    """The origin of a page."""

    scheme: str
    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.

        Raises:
            ValueError: the text is malformed, as ``null`` is.
        """
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _SCHEMES:
            raise ValueError("not an origin")
        return cls.of(scheme, Host.parse(rest))

    @classmethod
    def of(cls, scheme: str, host: Host) -> "Origin":
        """The origin of a server's pages."""
        return cls(scheme, host.name, host.port or _SCHEMES[scheme])


@dataclass(frozen=True)
class Addresses:
    """Names and origins of the UI.

    Attributes:
        names: accepted in addition to loopback names.
        public: origins of proxies in front of the UI.
    """

    names: frozenset[str]
    public: frozenset[Origin]

    @classmethod
    def of(cls, listening: str, public: Sequence[Origin]) -> "Addresses":
        """Addresses of a UI that listens on ``listening`` and has these public origins."""
        names = {origin.name for origin in public}
        if listening not in _EVERYWHERE:
            names.add(Host.parse(f"[{listening}]" if ":" in listening else listening).name)
        return cls(frozenset(names), frozenset(public))

    def accepts_host(self, host: Host) -> bool:
        """Whether this host is the UI."""
        return host.is_loopback or host.name in self.names

    def accepts_origin(self, origin: Origin, host: Host) -> bool:
        """Whether a page of this origin belongs to the UI on this host.

        A public name has only the origins that are configured for it.
        """
        if origin in self.public:
            return True
        published = host.name in {public.name for public in self.public}
        return not published and origin == Origin.of("http", host)


def is_loopback(address: str) -> bool:
    """Whether a name or address is a loopback one."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
