"""Names and origins: which of them are the UI's own.

A browser names the server in ``Host`` and the page that sends a request in ``Origin``; a page can
forge neither. Names are compared as browsers compare them: without case, default port and the dot
at the end (RFC 6454, RFC 9110).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_-])\.?(?::([0-9]{1,5}))?", re.IGNORECASE)
_SCHEMES = {"http": 80, "https": 443}
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not bound to


@dataclass(frozen=True)
class Host:
    """A server as requests name it; of an address there is one spelling.

    Attributes:
        name: in lower case, an IPv6 address without brackets.
        port: None where the request leaves it out.
    """

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Host":
        """Read ``NAME``, ``NAME:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

        Raises:
            ValueError: the text has another form.
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
        """Whether only this machine can be meant."""
        return is_loopback(self.name)


@dataclass(frozen=True)
class Origin:
    """Where a page comes from."""

    scheme: str
    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.

        Raises:
            ValueError: the text has another form; ``null`` has.
        """
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _SCHEMES:
            raise ValueError("not an origin")
        return cls.of(scheme, Host.parse(rest))

    @classmethod
    def of(cls, scheme: str, host: Host) -> "Origin":
        """The origin of the pages of a server."""
        return cls(scheme, host.name, host.port or _SCHEMES[scheme])


@dataclass(frozen=True)
class Addresses:
    """By which names the UI is reached, and from which origins its pages come.

    Attributes:
        names: accepted beside those of the loopback interface.
        public: origins where a proxy stands before the UI.
    """

    names: frozenset[str]
    public: frozenset[Origin]

    @classmethod
    def of(cls, listening: str, public: Sequence[Origin]) -> "Addresses":
        """Addresses of a UI.

        Args:
            listening: the address it listens on.
            public: the origins that are set.
        """
        names = {origin.name for origin in public}
        if listening not in _EVERYWHERE:
            names.add(Host.parse(f"[{listening}]" if ":" in listening else listening).name)
        return cls(frozenset(names), frozenset(public))

    def know(self, host: Host) -> bool:
        """Whether a request that names this host is meant for the UI."""
        return host.is_loopback or host.name in self.names

    def own(self, origin: Origin, host: Host) -> bool:
        """Whether a page of this origin is the UI's, asked on this host.

        A public name has the origins that are set for it and no others.
        """
        if origin in self.public:
            return True
        published = host.name in {public.name for public in self.public}
        return not published and origin == Origin.of("http", host)


def is_loopback(address: str) -> bool:
    """Whether a name or address leads to this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
