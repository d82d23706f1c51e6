"""Login by password and session, by token, or by a proxy that authenticates users.

Without any of these settings everybody who reaches the port has access; see ``UiSettings``.
"""

import re
import secrets
import time
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.config.setting_groups import UiSettings
from pipeline.orchestration.serving.web.guard import (
    FORMS,
    READING,
    Head,
    Refused,
    answer,
    body_of,
    has_token,
    same_secret,
)

ATTEMPTS = 10
"""Wrong passwords within ``ATTEMPT_SECONDS``, from all addresses together."""
ATTEMPT_SECONDS = 60.0
HEALTH = "/server_info"
"""Reports versions only, for probes without a password."""

_MAX_SESSIONS = 1000
_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this server; browsers read // and /\\ as the name of another server."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>pipeline</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px sans-serif; margin: 20vh auto; width: 20em }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; margin: .3em 0 }}
</style></head><body>{body}</body></html>
"""
_ASK = """<form method="post" action="/login"><input type="hidden" name="next" value="{next}">
<label>Password<input type="password" name="password" autocomplete="current-password" required
autofocus></label><button>Log in</button></form><p>{detail}</p>"""
_LEAVE = '<form method="post" action="/logout"><button>Log out</button></form>'
_AGAIN = '<meta http-equiv="refresh" content="0">'
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass
class Sessions:
    """Sessions in the memory of this process; a restart logs everybody out."""

    hours: float
    _ends: dict[str, float] = field(default_factory=dict)
    _wrong: list[float] = field(default_factory=list)

    def start(self) -> str:
        """Start a session and return its secret name; beyond the limit the oldest one ends."""
        now = time.monotonic()
        self._ends = {name: end for name, end in self._ends.items() if end > now}
        while len(self._ends) >= _MAX_SESSIONS:
            del self._ends[next(iter(self._ends))]
        name = secrets.token_urlsafe(32)
        self._ends[name] = now + self.hours * 3600
        return name

    def lasts(self, name: str) -> bool:
        """Whether a session is active."""
        return self._ends.get(name, 0.0) > time.monotonic()

    def end(self, name: str) -> None:
        """End a session, if it exists."""
        self._ends.pop(name, None)

    def may_try(self) -> bool:
        """Whether another attempt is allowed now."""
        since = time.monotonic() - ATTEMPT_SECONDS
        self._wrong = [moment for moment in self._wrong if moment > since]
        return len(self._wrong) < ATTEMPTS

    def was_wrong(self) -> None:
        """Count a wrong password."""
        self._wrong.append(time.monotonic())


@dataclass(frozen=True)
class Login:
    """Forwards requests of authenticated users only."""

    app: ASGIApp
    ui: UiSettings
    sessions: Sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or ask for a login."""
        if scope["type"] not in ("http", "websocket") or not self.ui.has_login:
            await self.app(scope, receive, send)
            return
        head = Head.of(scope)
        try:
            if self.ui.password is not None and head.path in FORMS:
                response = await self._form(head, receive, self.ui.password)
            elif self._knows(head, scope) or (head.method, head.path) == ("GET", HEALTH):
                await self.app(scope, receive, send)
                return
            else:
                response = self._ask(head)
        except Refused as refused:
            await answer(refused, scope, receive, send)
            return
        await response(scope, receive, send)

    def _knows(self, head: Head, scope: Scope) -> bool:
        return (
            has_token(head, self.ui.token)
            or self._vouched(head, scope)
            or self.sessions.lasts(self._session(head))
        )

    def _vouched(self, head: Head, scope: Scope) -> bool:
        """Whether a trusted proxy names a user."""
        if self.ui.user_header is None:
            return False
        peer = ip_address((scope.get("client") or ("::",))[0].partition("%")[0])
        if isinstance(peer, IPv6Address):
            peer = peer.ipv4_mapped or peer
        return bool(head.one(self.ui.user_header.lower())) and any(
            peer in network for network in self.ui.proxies
        )

    @property
    def _cookie(self) -> str:
        # Browsers accept a cookie with this prefix only from this host and over TLS (RFC 6265bis).
        return "__Host-pipeline" if self.ui.secure else "pipeline"

    def _session(self, head: Head) -> str:
        # Browsers also send cookies of other ports of this machine, which may be malformed.
        pairs = [each.strip().partition("=") for each in ";".join(head.all("cookie")).split(";")]
        return next((value for name, _, value in pairs if name == self._cookie), "")

    def _ask(self, head: Head) -> Response:
        """The answer for an unknown user: the login form, if a browser asks.

        Raises:
            Refused: the client is not a browser, or no password is set.
        """
        if self.ui.password is None:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "Open the UI through the proxy that authenticates users, or send the token.",
            )
        if head.method not in READING or "text/html" not in ",".join(head.all("accept")):
            raise Refused(HTTPStatus.UNAUTHORIZED, "Log in, or send the token.")
        if head.all("sec-fetch-site") == ["cross-site"]:
            # On a link from another site browsers omit the strict cookie; a reload sends it.
            return _page(_AGAIN, HTTPStatus.OK)
        return _asking(head.target, "")

    async def _form(self, head: Head, receive: Receive, password: SecretStr) -> Response:
        if head.method != "POST":
            if self.sessions.lasts(self._session(head)):
                return _page(_LEAVE, HTTPStatus.OK)
            return _asking("/", "", HTTPStatus.OK)
        if head.path == "/logout":
            self.sessions.end(self._session(head))
            left = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
            left.delete_cookie(self._cookie, secure=self.ui.secure, httponly=True)
            return left
        sent = parse_qs((await body_of(head, receive)).decode(errors="replace"))
        return self._attempt(sent, password)

    def _attempt(self, sent: dict[str, list[str]], password: SecretStr) -> Response:
        asked = sent.get("next", ["/"])[0]
        onward = asked if _LOCAL.fullmatch(asked) else "/"
        if not self.sessions.may_try():
            late = _asking(
                onward, "Too many attempts. Wait a minute.", HTTPStatus.TOO_MANY_REQUESTS
            )
            late.headers["Retry-After"] = str(round(ATTEMPT_SECONDS))
            return late
        if not same_secret(sent.get("password", [""])[0], password):
            self.sessions.was_wrong()
            return _asking(onward, "Wrong password.")
        let_in = RedirectResponse(onward, HTTPStatus.SEE_OTHER)
        let_in.set_cookie(
            self._cookie,
            self.sessions.start(),
            max_age=round(self.sessions.hours * 3600),
            secure=self.ui.secure,
            httponly=True,
            samesite="strict",
        )
        return let_in


def _asking(onward: str, detail: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> Response:
    return _page(_ASK.format(next=escape(onward), detail=escape(detail)), status)


def _page(body: str, status: HTTPStatus) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(_PAGE.format(body=body), status, headers)
