"""Security headers of every answer."""

from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # With "no-referrer" browsers would omit the origin of the UI's own forms.
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
"""Applies in addition to the policy of Dagster's page, which restricts scripts.

With this policy nothing in a page can contact any other server than the UI.
"""


@dataclass(frozen=True)
class StrictHeaders:
    """Adds the headers to every answer."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, and add the headers to its answer."""

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.append("Content-Security-Policy", POLICY)
                # Answers contain rows and logs, which no shared cache may store.
                headers.setdefault("Cache-Control", "private")
            await send(message)

        await self.app(scope, receive, strict)
