"""Requests to an ASGI application, without a server in between."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope

TOKEN = "a-token-of-nobody-in-particular-0"
JSON = ("Content-Type", "application/json")
HERE = ("Host", "localhost:3000")
OURS = ("Origin", "http://localhost:3000")
PUBLIC = "https://pipeline.example.org"


Header = tuple[str, str]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


def ask(
    app: ASGIApp,
    method: str,
    path: str = "/graphql",
    *headers: Header,
    chunks: Iterable[bytes] = (b"",),
    query: str = "",
    client: str = "127.0.0.1",
) -> Answer:
    """Send a request; ``WEBSOCKET`` is a method, too, whose answer is 101 where it is accepted."""
    scope: Scope = {
        "type": "websocket" if method == "WEBSOCKET" else "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": (client, 1),
        "server": ("127.0.0.1", 3000),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "subprotocols": ["graphql-ws"],
        "state": {},
    }
    received = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks] + [
        {"type": "http.request", "body": b"", "more_body": False}
    ]
    if method == "WEBSOCKET":
        received = [{"type": "websocket.connect"}, {"type": "websocket.disconnect"}]
    answer = Answer(0)

    async def receive() -> Message:
        if received:
            return received.pop(0)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                answer.status = message["status"]
                for name, value in message["headers"]:
                    answer.headers.setdefault(name.decode(), []).append(value.decode())
            case "http.response.body":
                answer.body += message.get("body", b"")
            case "websocket.accept":
                answer.status = 101
            case "websocket.close":
                answer.status = answer.status or 403

    asyncio.run(_called(app, scope, receive, send))
    return answer


async def _called(app: ASGIApp, *arguments: Any) -> None:
    async with asyncio.timeout(10):
        await app(*arguments)


async def reached(scope: Scope, receive: Any, send: Any) -> None:
    """An application that accepts everything, and returns what it was sent."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    body, more = b"", scope["method"] == "POST"
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = [(b"server", b"x"), (b"referrer-policy", b"unsafe-url")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
