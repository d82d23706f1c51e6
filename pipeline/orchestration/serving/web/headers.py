"""Headers of every answer: what browsers are told not to do with it."""

from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Also for forms: by "no-referrer" browsers withhold the origin of the UI's own.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
POLICY = (
    "frame-ancestors 'none'; frame-src 'none'; base-uri 'none'; object-src 'none';"
    " form-action 'self'; connect-src 'self'; font-src 'self' data:; img-src 'self' data: blob:;"
    " media-src 'self'; worker-src 'self' blob:"
)
"""Beside the policy that Dagster sends with its page, which says what scripts it runs; both hold.

With this one nothing in a page can call anybody but the UI.
"""


@dataclass(frozen=True)
class StrictHeaders:
    """Adds the headers to every answer of an application."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back with its headers."""

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.append("Content-Security-Policy", POLICY)
                # Rows and logs are in it: no cache that others share may keep it.
                headers.setdefault("Cache-Control", "private")
            await send(message)

        await self.app(scope, receive, strict)
