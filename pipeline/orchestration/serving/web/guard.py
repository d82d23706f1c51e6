"""Requests are checked here before Dagster's application interprets them.

Reading needs a login only. A request that can change something has to be a POST of JSON that comes
from a page of the UI or carries the token, as scripts do. The same holds for a WebSocket, because
browsers let every page open one.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from pydantic import SecretStr
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.config.web_origins import Addresses, Host, Origin

MAX_BODY = 2**20
"""Maximum bytes of a request; the UI's largest request is the configuration of a run."""
BODY_SECONDS = 30.0
READING = ("GET", "HEAD")
FORMS = ("/login", "/logout")
"""Paths of forms, which browsers send with another content type; see ``login``."""

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_POLICY_VIOLATION = 1008


class Refused(Exception):
    """A refused request."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        """Take the status, and a text with the reason and what to do."""
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Head:
    """A request without its body.

    Attributes:
        method: in capitals; ``WEBSOCKET`` for the request to open one.
        path: decoded.
        target: path and query as sent.
        headers: names in lower case, in order; a name may occur twice.
    """

    method: str
    path: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]

    @classmethod
    def of(cls, scope: Scope) -> "Head":
        """The head of an ASGI request."""
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        target = scope.get("raw_path") or quote(scope["path"]).encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        return cls(method, scope["path"], target.decode("latin-1"), headers)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]

    def one(self, name: str) -> str | None:
        """The value of a header; None if it is missing.

        Raises:
            Refused: the header occurs several times, and readers might pick different ones.
        """
        found = self.all(name)
        if len(found) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} occurs several times.")
        return found[0].strip() if found else None


@dataclass(frozen=True)
class Guard:
    """Refuses requests that do not address the UI, or that other sites send.

    Attributes:
        app: the guarded application.
        addresses: addresses of the UI.
        token: the token of scripts; None if none is set.
    """

    app: ASGIApp
    addresses: Addresses
    token: SecretStr | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            head = Head.of(scope)
            self.check(head)
            if head.method == "POST":
                receive = replayed(await body_of(head, receive), receive)
        except Refused as refused:
            await answer(refused, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def check(self, head: Head) -> None:
        """Check a request's head.

        Raises:
            Refused: the request is not allowed.
        """
        self._check_sender(head, self._host(head))
        if head.method in (*READING, "WEBSOCKET"):
            return
        if head.method != "POST":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET, HEAD and POST are served.")
        wanted = _FORM if head.path in FORMS else _JSON
        kind = (head.one("content-type") or "").partition(";")[0].strip().lower()
        if kind != wanted:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send this as {wanted}.")

    def _host(self, head: Head) -> Host:
        try:
            host = Host.parse(head.one("host") or "")
        except ValueError:
            detail = "The header Host is missing or malformed."
            raise Refused(HTTPStatus.BAD_REQUEST, detail) from None
        if not self.addresses.accepts_host(host):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "The host name of this request is not a name of the UI. Set UI_ORIGIN to the"
                " address that people open, such as https://pipeline.example.org.",
            )
        return host

    def _check_sender(self, head: Head, host: Host) -> None:
        """Refuse a request of another site's page, or one without origin and token."""
        given = head.one("origin")
        if given is not None:
            if not self._is_own(given, host):
                raise Refused(
                    HTTPStatus.FORBIDDEN,
                    "A page of another site sent this request. If it was the UI itself, set"
                    " UI_ORIGIN to its address.",
                )
        elif head.method not in READING and not has_token(head, self.token):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This request has no Origin. A script has to send the header Authorization:"
                " Bearer with the value of UI_TOKEN.",
            )
        if head.method in READING and embeds(head):
            raise Refused(HTTPStatus.FORBIDDEN, "A page of another site embeds this address.")

    def _is_own(self, given: str, host: Host) -> bool:
        try:
            return self.addresses.accepts_origin(Origin.parse(given), host)
        except ValueError:
            return False


def has_token(head: Head, token: SecretStr | None) -> bool:
    """Whether a request carries the token.

    Raises:
        Refused: it carries several.
    """
    scheme, _, given = (head.one("authorization") or "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return same_secret(given.strip(), token)


def same_secret(given: str, secret: SecretStr) -> bool:
    """Compare two secrets in constant time."""
    digests = [
        hashlib.sha256(each.encode()).digest() for each in (given, secret.get_secret_value())
    ]
    return hmac.compare_digest(*digests)


def embeds(head: Head) -> bool:
    """Whether the browser reports that a page of another site embeds this address.

    Following a link is not embedding (W3C Fetch Metadata).
    """
    if set(head.all("sec-fetch-site")) <= {"same-origin", "none"}:
        return False
    return head.all("sec-fetch-mode") != ["navigate"] or head.all("sec-fetch-dest") != ["document"]


async def body_of(head: Head, receive: Receive) -> bytes:
    """A request's body.

    Raises:
        Refused: it is too large or takes too long.
    """
    too_large = Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request has at most {MAX_BODY:,} bytes."
    )
    announced = head.one("content-length") or "0"
    if not announced.isdecimal() or int(announced) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message["type"] == "http.request" and message.get("more_body", False)
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError:
        raise Refused(
            HTTPStatus.REQUEST_TIMEOUT, "The request was not complete within the time limit."
        ) from None
    return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A receiver that returns an already read body."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def answer(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refused request with the reason."""
    if scope["type"] == "websocket":
        # Before the WebSocket is accepted, ASGI turns this into status 403.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    response = PlainTextResponse(f"{refused.detail}\n", refused.status)
    await response(scope, receive, send)
