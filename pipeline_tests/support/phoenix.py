"""A small Supabase Realtime: its protocol (Phoenix, version 1.0.0) over a real WebSocket.

It knows private channels that need a token, broadcasts with acknowledgement, presence, heartbeats
and tokens that expire; a test can drop its sockets, be silent, or refuse a topic.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

KEY = "publishable-geheim"


def jwt(seconds: float, *, name: str = "geheim") -> str:
    """A token as Supabase Auth gives it, but for its signature."""
    claims = json.dumps({"sub": name, "exp": time.time() + seconds}).encode()
    body = base64.urlsafe_b64encode(claims).decode().rstrip("=")
    return f"{name}.{body}.signature"


def expired(token: Any) -> bool:
    """Whether the server still takes a token."""
    body = str(token).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return bool(claims["exp"] <= time.time())


@dataclass
class Phoenix:
    """What happened at the server, and what it is to do.

    Attributes:
        joins: topics, in the order of their joins.
        tokens: those that were sent, with joins or to renew one.
        refused: topics that nobody may join.
        silent: whether broadcasts of the database are swallowed.
        heard: broadcasts of clients.
    """

    port: int = 0
    joins: list[str] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    heard: list[dict[str, Any]] = field(default_factory=list)
    silent: bool = False
    _sockets: dict[ServerConnection, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}/realtime/v1"

    @property
    def joined(self) -> set[str]:
        """Topics of which somebody is told."""
        return {topic for channels in self._sockets.values() for topic in channels}

    async def changes(self, topic: str) -> None:
        """The database says that something of a topic was committed."""
        if not self.silent:
            await self.tell(topic, "broadcast", {"event": "changes", "payload": {"more": False}})

    async def tell(self, topic: str, event: str, payload: dict[str, Any]) -> None:
        """Send it to all who joined a topic."""
        for socket, channels in list(self._sockets.items()):
            if topic in channels:
                await self._send(socket, topic, event, payload)

    async def shout(self, text: str) -> None:
        """Send a text as it is over every socket."""
        for socket in list(self._sockets):
            await socket.send(text)

    async def drop(self) -> None:
        """Cut every socket, without a word."""
        dropped = set(self._sockets)
        for socket in dropped:
            socket.transport.abort()
        # Those who come back meanwhile stay.
        while dropped & self._sockets.keys():
            await asyncio.sleep(0.005)

    async def close_expired(self) -> None:
        """Close the channels whose token has expired, as the server does."""
        for socket, channels in list(self._sockets.items()):
            for topic, token in list(channels.items()):
                if expired(token):
                    del channels[topic]
                    await self._send(socket, topic, "phx_close", {})

    async def _send(
        self, socket: ServerConnection, topic: str, event: str, payload: Any, ref: Any = None
    ) -> None:
        name = topic if topic == "phoenix" else f"realtime:{topic}"
        said = {"topic": name, "event": event, "payload": payload, "ref": ref}
        await socket.send(json.dumps(said))

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        if parse_qs(urlsplit(socket.request.path).query).get("apikey") != [KEY]:
            return
        self._sockets[socket] = {}
        try:
            async for text in socket:
                await self._answer(socket, json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            del self._sockets[socket]

    async def _answer(self, socket: ServerConnection, said: dict[str, Any]) -> None:
        topic, payload = said["topic"].removeprefix("realtime:"), said["payload"]

        async def reply(status: str, response: Any) -> None:
            answer = {"status": status, "response": response}
            await self._send(socket, topic, "phx_reply", answer, said["ref"])

        match said["event"]:
            case "phx_join":
                self.joins.append(topic)
                self.tokens.append(payload["access_token"])
                assert payload["config"]["private"]
                if topic in self.refused or expired(payload["access_token"]):
                    await reply("error", {"reason": "Unauthorized: you may not read this topic"})
                    return
                self._sockets[socket][topic] = payload["access_token"]
                await reply("ok", {"postgres_changes": []})
                await self._send(socket, topic, "presence_state", {})
            case "phx_leave":
                self.leaves.append(topic)
                self._sockets[socket].pop(topic, None)
                await reply("ok", {})
            case "access_token":
                self.tokens.append(payload["access_token"])
                self._sockets[socket][topic] = payload["access_token"]
            case "broadcast":
                self.heard.append(payload)
                kept = {"event": payload["event"], "payload": payload["payload"]}
                await self.tell(topic, "broadcast", kept)
                await reply("ok", {})
            case "heartbeat":
                await reply("ok", {})


@asynccontextmanager
async def phoenix() -> AsyncIterator[Phoenix]:
    """A server on loopback."""
    made = Phoenix()
    server: Server
    async with serve(made._serve, "127.0.0.1", 0) as server:
        made.port = next(iter(server.sockets)).getsockname()[1]
        yield made
