"""A server of the tests' own that speaks AnkiConnect's protocol over a real collection.

It answers as the add-on's version 6 does: HTTP 200 with ``result`` and ``error``, one request at a
time, and a closed connection after each. What the add-on can be in trouble with is switched on as a
``Fault``; everything else is done by the ``anki`` package on a real file.
"""

import base64
import json
import re
import socket
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self, get_args

from anki.collection import Collection
from anki.decks import DeckId
from anki.notes import Note as AnkiNote
from anki.notes import NoteFieldsCheckResult

VERSION = 6
FULL_DISK = "DBError(info='database or disk is full', kind=SqliteFailure)"

Wire = Literal[
    "lost after",
    "closed before",
    "silent",
    "html",
    "status 500",
    "short multi",
    "null result",
    "other items",
]
Inner = Literal[
    "null, not made",
    "null, made",
    "other deck",
    "taken back",
    "pretends",
    "other bytes",
    "other name",
    "old version",
    "full disk",
    "no profile",
    "wrong key",
]
_WIRE: tuple[str, ...] = get_args(Wire)


@dataclass
class Fault:
    """Something that goes wrong.

    Attributes:
        kind: what.
        action: of which requests; a ``multi`` is also one of what it carries; None for all.
        only: of these only the one with this number, from 1; None for each.
        seen: how many there were.
    """

    kind: Wire | Inner
    action: str | None
    only: int | None = None
    seen: int = field(default=0)

    def strikes(self, *actions: str) -> bool:
        """Whether it befalls this request; counts it."""
        if self.action is not None and self.action not in actions:
            return False
        self.seen += 1
        return self.only in (None, self.seen)


class Refusal(Exception):
    """What stands as ``error`` in an answer."""


class AnkiServer:
    """A collection that is open for as long as the block lasts, and answers over HTTP.

    Attributes:
        url: where it listens.
        key: what requests have to bring along; None for nothing.
        profile: the name of the open profile; None for an add-on that does not tell it.
        collection: for tests; use it within ``held``.
        requests: how many came, by action; what a ``multi`` carries is not counted.
        carried: how many actions came in a ``multi``, by action.
    """

    def __init__(self, path: Path, *, key: str | None = None) -> None:
        """Nothing is opened before the block begins."""
        self.path, self.key = path, key
        self.profile: str | None = "User 1"
        self.requests: Counter[str] = Counter()
        self.carried: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._timers: list[threading.Timer] = []
        self._lock = threading.RLock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        """Open the collection and listen."""
        self.collection = Collection(str(self.path))
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.anki = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and close the collection."""
        self._ended.set()
        for timer in self._timers:
            timer.join()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        with self._lock:
            self.collection.close()

    @contextmanager
    def fault(
        self, kind: Wire | Inner, action: str | None = None, *, only: int | None = None
    ) -> Iterator[Fault]:
        """Let something go wrong while a block lasts."""
        self._fault = Fault(kind, action, only)
        try:
            yield self._fault
        finally:
            self._fault = None

    @contextmanager
    def held(self) -> Iterator[Collection]:
        """The collection, while no request is carried out."""
        with self._lock:
            yield self.collection

    def answer(self, body: bytes) -> "Answer":
        """What is sent back for the body of a request."""
        if not body.strip():
            return Answer(b"AnkiConnect", "text/plain")
        with self._lock:
            request = json.loads(body)
            action = request.get("action", "")
            self.requests[action] += 1
            inner = [each["action"] for each in request.get("params", {}).get("actions", [])]
            self.carried.update(inner)
            fault = self._struck(_WIRE, action, *dict.fromkeys(inner))
            if fault == "closed before":
                return Answer(None)
            reply = self.handle(request)
        if fault == "lost after":
            return Answer(None)
        if fault == "silent":
            self._ended.wait(5)
            return Answer(None)
        if fault == "html":
            return Answer(b"<!DOCTYPE html><title>Router</title>", "text/html")
        if fault == "status 500":
            return Answer(b"Internal Server Error", "text/plain", 500)
        if fault == "null result":
            reply = {"result": None, "error": None}
        if fault == "other items":
            reply = {"result": ["x"], "error": None}
        if fault == "short multi":
            reply = {**reply, "result": reply["result"][:-1]}
        return Answer(json.dumps(reply).encode())

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one action; what a ``multi`` holds comes here one by one."""
        action, version = request.get("action", ""), request.get("version", 4)
        assert version == VERSION, f"{action} says version {version}"
        try:
            if request.get("key") != self.key:
                raise Refusal("valid api key must be provided")
            name = re.sub(r"([A-Z])", lambda met: "_" + met[1].lower(), action)
            method = getattr(self, f"do_{name}", None)
            if method is None:
                raise Refusal("unsupported action")
            fault = self._struck(("no profile", "full disk", "wrong key"), action)
            if fault == "wrong key":
                raise Refusal("valid api key must be provided")
            if fault == "no profile" and action not in ("version", "multi"):
                raise Refusal("collection is not available")
            if fault == "full disk":
                raise Refusal(FULL_DISK)
            return {"result": method(**request.get("params", {})), "error": None}
        except Exception as error:  # as the add-on does
            return {"result": None, "error": str(error)}

    def _struck(self, kinds: tuple[str, ...], *actions: str) -> str | None:
        fault = self._fault
        return fault.kind if fault and fault.kind in kinds and fault.strikes(*actions) else None

    def do_version(self) -> int:
        """The protocol's version."""
        return 5 if self._struck(("old version",), "version") else VERSION

    def do_multi(self, actions: list[dict[str, Any]]) -> list[Any]:
        """Several actions, each with its own answer."""
        return [self.handle(each) for each in actions]

    def do_deck_names(self) -> list[str]:
        """Names of all decks."""
        return [deck.name for deck in self.collection.decks.all_names_and_ids()]

    def do_create_deck(self, deck: str) -> int:
        """A deck, made if it is not there."""
        return int(self.collection.decks.id(deck) or 0)

    def do_deck_names_and_ids(self) -> dict[str, int]:
        """Names and ids of all decks."""
        return {deck.name: int(deck.id) for deck in self.collection.decks.all_names_and_ids()}

    def do_get_deck_config(self, deck: str) -> Any:
        """The options of a deck, False if there is none; a filtered deck is its own options."""
        found = self.collection.decks.by_name(deck)
        return self.collection.decks.config_dict_for_deck_id(found["id"]) if found else False

    def do_get_decks(self, cards: list[int]) -> dict[str, list[int]]:
        """The decks of cards."""
        found: dict[str, list[int]] = {}
        for card in cards:
            did = self.collection.get_card(card).did  # type: ignore[arg-type]
            found.setdefault(self.collection.decks.name(did), []).append(card)
        return found

    def do_change_deck(self, cards: list[int], deck: str) -> None:
        """Move cards to a deck, which is made if it is not there."""
        self.collection.set_deck(cards, self.do_create_deck(deck))  # type: ignore[arg-type]

    def do_get_active_profile(self) -> str:
        """The name of the open profile; earlier versions of the add-on did not tell it."""
        if self.profile is None:
            raise Refusal("unsupported action")
        return self.profile

    def do_model_names(self) -> list[str]:
        """Names of all note types."""
        return [model.name for model in self.collection.models.all_names_and_ids()]

    def do_model_field_names(self, modelName: str) -> list[str]:  # noqa: N803
        """Names of a note type's fields."""
        return [each["name"] for each in self._model(modelName)["flds"]]

    def do_find_notes(self, query: str) -> list[int]:
        """Ids of the notes that a search finds."""
        return list(map(int, self.collection.find_notes(query)))

    def do_notes_info(self, notes: list[int]) -> list[dict[str, Any]]:
        """What there is to tell of notes; of those that are not there an empty object."""
        return [self._info(number) for number in notes]

    def do_add_note(self, note: dict[str, Any]) -> int | None:
        """Make a note."""
        fault = self._struck(("null, not made", "null, made"), "addNote")
        if fault == "null, not made":
            return None
        model = self._model(note["modelName"])
        deck = self.collection.decks.by_name(note["deckName"])
        if deck is None:
            raise Refusal(f"deck was not found: {note['deckName']}")
        made = AnkiNote(self.collection, model)
        made.tags = note.get("tags", [])
        _fill(made, note["fields"])
        check = made.fields_check()
        if check == NoteFieldsCheckResult.EMPTY:
            raise Refusal("cannot create note because it is empty")
        again = note.get("options", {}).get("allowDuplicate", False)
        if check == NoteFieldsCheckResult.DUPLICATE and not again:
            raise Refusal("cannot create note because it is a duplicate")
        # Earlier versions of the add-on lose the deck when Anki resets its window.
        other = self._struck(("other deck",), "addNote")
        self.collection.add_note(made, DeckId(1) if other else deck["id"])
        return None if fault else int(made.id)

    def do_add_notes(self, notes: list[dict[str, Any]]) -> list[int | None]:
        """Make notes; null where one was refused."""
        made: list[int | None] = []
        for note in notes:
            try:
                made.append(self.do_add_note(note))
            except Refusal:
                made.append(None)
        return made

    def do_update_note_fields(self, note: dict[str, Any]) -> None:
        """Write fields of a note."""
        if self._struck(("pretends",), "updateNoteFields"):
            return
        found = self.collection.get_note(note["id"])
        before = found.fields[:], found.tags[:]
        _fill(found, note["fields"])
        self.collection.update_note(found)
        if self._struck(("taken back",), "updateNoteFields"):
            self.later(self.put_back, note["id"], *before)

    def put_back(self, number: Any, fields: list[str], tags: list[str]) -> None:
        """Write a note as an editor does that was open during a write."""
        with self._lock:
            found = self.collection.get_note(number)
            found.fields, found.tags = fields, tags
            self.collection.update_note(found)

    def later(self, what: Callable[..., object], *arguments: Any) -> None:
        """Do something in 0.3 seconds, as somebody does at the desktop."""
        timer = threading.Timer(0.3, what, arguments)
        self._timers.append(timer)
        timer.start()

    def do_add_tags(self, notes: list[int], tags: str) -> None:
        """Give notes tags."""
        if not self._struck(("pretends",), "addTags"):
            self.collection.tags.bulk_add(notes, tags)

    def do_remove_tags(self, notes: list[int], tags: str) -> None:
        """Take tags from notes."""
        self.collection.tags.bulk_remove(notes, tags)

    def do_update_note_tags(self, note: int, tags: list[str]) -> None:
        """Give a note these tags and no others."""
        found = self.collection.get_note(note)
        found.tags = list(tags)
        self.collection.update_note(found)

    def do_suspend(self, cards: list[int]) -> bool:
        """Suspend cards."""
        self.collection.sched.suspend_cards(cards)
        return True

    def do_store_media_file(self, filename: str, data: str) -> str:
        """Write a media file."""
        name, content = _media_name(filename), base64.b64decode(data)
        fault = self._struck(("other bytes", "other name"), "storeMediaFile")
        if fault == "other bytes":
            content = content[:-1] + b"?"
        if fault == "other name":
            name = f"copy_{name}"
        Path(self.collection.media.dir(), name).write_bytes(content)
        return name

    def do_retrieve_media_file(self, filename: str) -> str | Literal[False]:
        """A media file's bytes, False if there is none."""
        path = Path(self.collection.media.dir(), _media_name(filename))
        return base64.b64encode(path.read_bytes()).decode() if path.is_file() else False

    def do_get_media_files_names(self, pattern: str = "*") -> list[str]:
        """Names of the media files that match."""
        return sorted(each.name for each in Path(self.collection.media.dir()).glob(pattern))

    def do_delete_notes(self, notes: list[int]) -> None:
        """Delete notes."""
        self.collection.remove_notes(notes)

    def _model(self, name: str) -> Any:
        model = self.collection.models.by_name(name)
        if model is None:
            raise Refusal(f"model was not found: {name}")
        return model

    def _info(self, number: int) -> dict[str, Any]:
        if not self.collection.find_notes(f"nid:{number}"):
            return {}
        note = self.collection.get_note(number)
        return {
            "noteId": int(note.id),
            "profile": "User 1",
            "tags": note.tags,
            "fields": {
                name: {"value": value, "order": at} for at, (name, value) in enumerate(note.items())
            },
            "modelName": note.note_type()["name"],
            "mod": note.mod,
            "cards": list(map(int, note.card_ids())),
        }


def _fill(note: AnkiNote, fields: dict[str, str]) -> None:
    # As the add-on does: fields are found without regard to capitals, others are passed over.
    names = {name.lower(): name for name in note.keys()}  # noqa: SIM118
    for name, value in fields.items():
        if name.lower() in names:
            note[names[name.lower()]] = value


def _media_name(name: str) -> str:
    return unicodedata.normalize("NFC", Path(name).name)


@dataclass(frozen=True)
class Answer:
    """What is sent back; without a body the connection is closed instead."""

    body: bytes | None
    kind: str = "application/json"
    status: int = 200


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    anki: AnkiServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_POST(self) -> None:
        """Answer a request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.anki.answer(body)
        self.close_connection = True
        if answer.body is None:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        with suppress(OSError):  # who asked may have stopped waiting
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
