"""Access a running Anki through its add-on AnkiConnect over HTTP.

The protocol is AnkiConnect's version 6: a request and its answer are one JSON object each, and
``multi`` carries several actions. If an answer is lost, only idempotent requests are repeated;
creating notes is not idempotent.
"""

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from pipeline.anki.store.batches import REQUEST_BYTES, by_answers, by_bytes
from pipeline.anki.store.connect_errors import MESSAGE_CHARACTERS, ConnectErrors
from pipeline.anki.store.errors import AnkiError, Unsupported
from pipeline.anki.store.notes import NewNote, Note, Refusal
from pipeline.core import urls
from pipeline.core.errors import SettingsError

VERSION = 6
TIMEOUT = 30.0
RETRIES = 2
"""The number of retries of an idempotent request, after half a second and after one second."""

SETTLE_SECONDS = 1.0
"""An editor in Anki saves its fields up to half a second after its note was written."""
_OVERHEAD = 200
"""Bytes of an action in a request besides its texts."""


class AnkiConnect:
    """A running Anki."""

    def __init__(
        self,
        url: str,
        *,
        key: SecretStr | None = None,
        timeout: float = TIMEOUT,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Prepare; ``__enter__`` sends the first request.

        Args:
            url: of AnkiConnect, ``http://127.0.0.1:8765``.
            key: its ``apiKey``; never part of a message.
            timeout: for an answer, in seconds.
            settle_seconds: after which a written note is read again.

        Raises:
            SettingsError: the URL is malformed or ambiguous.
        """
        parts = urls.server(url, {"http", "https"})
        if parts is None:
            raise SettingsError(
                "ANKI_CONNECT_URL is malformed or ambiguous",
                remedy=f"Write it like http://127.0.0.1:8765; {urls.ESCAPED}",
            )
        self.shown = f"Anki at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._url = url
        self._key = key
        self._timeout = timeout
        self._errors = ConnectErrors(self.shown, timeout)
        self.settle_seconds: float | None = settle_seconds
        self._encrypted = parts.scheme == "https"

    def __enter__(self) -> Self:
        """Connect and check the version.

        Raises:
            AnkiUnavailable: there is no answer.
            AnkiError: the answer is not from AnkiConnect, it is too old, or it refuses the key.
        """
        # httpx would log the URL with its user and password.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.Client(
            timeout=self._timeout,
            trust_env=False,
            # Loading certificates takes longer than most answers.
            verify=self._encrypted,
            # AnkiConnect closes the connection after each answer without announcing it.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        with contextlib.ExitStack() as failed:
            failed.callback(self._client.close)
            found = self._ask("version", idempotent=True)
            if not isinstance(found, int) or found < VERSION:
                raise AnkiError(
                    f"{self.shown} has version {found} of AnkiConnect, but version {VERSION} or"
                    " newer is required",
                    remedy="Update the add-on AnkiConnect in Anki",
                )
            failed.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._client.close()

    def profile(self) -> str | None:
        """The name of the open profile, None if the add-on is too old to tell."""
        try:
            name = self._ask("getActiveProfile", idempotent=True)
        except Unsupported:
            return None
        return None if name is None else str(name)

    def decks(self) -> list[str]:
        """Names of all decks."""
        return [str(name) for name in self._list("deckNames")]

    def default_deck(self) -> str:
        """The name of the deck that always exists."""
        found = self._ask("deckNamesAndIds", idempotent=True)
        if not isinstance(found, dict):
            raise self._errors.unexpected("deckNamesAndIds")
        return next((str(name) for name, number in found.items() if number == 1), "Default")

    def filtered(self, decks: Collection[str]) -> list[str]:
        """The filtered decks among these."""
        names = sorted(decks)
        found = self._multi("getDeckConfig", [{"deck": name} for name in names], idempotent=True)
        pairs = zip(names, found, strict=True)
        return [name for name, config in pairs if isinstance(config, dict) and config.get("dyn")]

    def decks_of(self, cards: Collection[int]) -> dict[int, str]:
        """The decks of the existing cards among these: card id -> name."""
        wanted = sorted(cards)
        # One card at a time, because a card that was deleted fails the whole action.
        found = self._multi("getDecks", [{"cards": [card]} for card in wanted], idempotent=True)
        return {
            card: str(next(iter(names)))
            for card, names in zip(wanted, found, strict=True)
            if isinstance(names, dict) and names
        }

    def move(self, cards: Collection[int], deck: str) -> None:
        """Move cards to a deck."""
        self._ask("changeDeck", idempotent=True, cards=list(cards), deck=deck)

    def create_deck(self, name: str) -> None:
        """Create a deck."""
        self._ask("createDeck", idempotent=True, deck=name)

    def field_names(self, note_type: str) -> list[str] | None:
        """Field names of a note type, None if it does not exist."""
        if note_type not in self._list("modelNames"):
            return None
        return [str(name) for name in self._list("modelFieldNames", modelName=note_type)]

    def find(self, tag: str, *, without: str | None = None) -> list[int]:
        """Ids of the notes with a tag, which may end in ``*``, and without another one."""
        query = f"tag:{tag} -tag:{without}" if without else f"tag:{tag}"
        with self._errors.reading("findNotes"):
            return [int(number) for number in self._list("findNotes", query=query)]

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """The existing notes among these."""
        with self._errors.reading("notesInfo"):
            return {note.id: note for note in map(_note, self._infos(ids))}

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Create notes; returns an id or a refusal for each."""
        made: list[int | Refusal] = []
        for some in by_bytes(notes, lambda new: _size(new.fields), most=REQUEST_BYTES):
            answers = self._multi(
                "addNote",
                [
                    {
                        "note": {
                            "deckName": new.deck,
                            "modelName": new.note_type,
                            "fields": dict(new.fields),
                            "tags": list(new.tags),
                            # Notes are identified by tags, so equal fronts are allowed.
                            "options": {"allowDuplicate": True},
                        }
                    }
                    for new in some
                ],
                idempotent=False,
            )
            made += [
                answer if isinstance(answer, int | Refusal) else Refusal("the answer has no id")
                for answer in answers
            ]
        return made

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write fields of notes: id -> name -> HTML; returns the refused notes."""
        refused = {}
        for some in by_bytes(fields.items(), lambda item: _size(item[1]), most=REQUEST_BYTES):
            answers = self._multi(
                "updateNoteFields",
                [{"note": {"id": number, "fields": dict(values)}} for number, values in some],
                idempotent=True,
            )
            for (number, _), answer in zip(some, answers, strict=True):
                if isinstance(answer, Refusal):
                    refused[number] = answer
        return refused

    def tag(self, tags: Mapping[int, str]) -> None:
        """Add a tag to each of these notes."""
        notes: dict[str, list[int]] = {}
        for number, tag in tags.items():
            notes.setdefault(tag, []).append(number)
        wanted = [{"notes": some, "tags": tag} for tag, some in notes.items()]
        for batch in by_bytes(wanted, lambda _: _OVERHEAD, most=REQUEST_BYTES):
            self._multi("addTags", batch, idempotent=True)

    def untag(self, ids: Collection[int], tags: Collection[str]) -> None:
        """Remove tags from notes."""
        self._ask("removeTags", idempotent=True, notes=list(ids), tags=" ".join(tags))

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        cards = [int(card) for info in self._infos(ids) for card in info["cards"]]
        if cards:
            self._ask("suspend", idempotent=True, cards=cards)

    def media_names(self) -> set[str]:
        """Names of all media files."""
        return {str(name) for name in self._list("getMediaFilesNames", pattern="*")}

    def media(self, sizes: Mapping[str, int]) -> dict[str, str]:
        """Hexadecimal MD5 of the existing media files: name -> expected number of bytes."""
        found = {}
        # One answer holds all recordings of a batch in memory.
        for some in by_bytes(sizes, lambda name: sizes[name] + _OVERHEAD):
            wanted = [{"filename": name} for name in some]
            answers = self._multi("retrieveMediaFile", wanted, idempotent=True)
            for name, answer in zip(some, answers, strict=True):
                if isinstance(answer, str):
                    with self._errors.reading("retrieveMediaFile"):
                        data = base64.b64decode(answer)
                    found[name] = hashlib.md5(data).hexdigest()  # noqa: S324
        return found

    def store(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write or replace media files."""
        for some in by_bytes(files, lambda file: len(file[1]) + _OVERHEAD, most=REQUEST_BYTES):
            wanted = [
                {"filename": name, "data": base64.b64encode(data).decode("ascii")}
                for name, data in some
            ]
            for answer in self._multi("storeMediaFile", wanted, idempotent=True):
                if isinstance(answer, Refusal):
                    raise self._errors.rejected("storeMediaFile", answer.why)

    def _infos(self, ids: Collection[int]) -> Iterator[dict[str, Any]]:
        def ask(some: Sequence[int]) -> list[dict[str, Any]]:
            # The answer for a missing note is an empty object or null.
            return [info for info in self._list("notesInfo", notes=some) if info]

        return by_answers(sorted(ids), ask, lambda info: len(str(info).encode()))

    def _multi(
        self, action: str, parameters: Sequence[Mapping[str, Any]], *, idempotent: bool
    ) -> list[Any]:
        """One action with several parameters in one request; an answer or a refusal for each."""
        actions = [self._request(action, each) for each in parameters]
        answers = self._ask("multi", idempotent=idempotent, actions=actions)
        if not isinstance(answers, list) or len(answers) != len(parameters):
            raise self._errors.unexpected("multi")
        return [self._result(action, answer) for answer in answers]

    def _result(self, action: str, answer: Any) -> Any:
        if isinstance(answer, dict) and answer.keys() == {"result", "error"}:
            if answer["error"] is not None:
                problem = str(answer["error"])
                self._errors.raise_general(action, problem)
                return Refusal(problem[:MESSAGE_CHARACTERS])
            return answer["result"]
        return answer

    def _list(self, action: str, **parameters: Any) -> list[Any]:
        """Read a list."""
        answer = self._ask(action, idempotent=True, **parameters)
        if not isinstance(answer, list):
            raise self._errors.unexpected(action)
        return answer

    def _request(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"action": action, "version": VERSION, "params": dict(parameters)}
        if self._key is not None and self._key.get_secret_value():
            request["key"] = self._key.get_secret_value()
        return request

    def _ask(self, action: str, *, idempotent: bool, **parameters: Any) -> Any:
        """Send one request and return its result.

        Raises:
            AnkiUnavailable: there was no answer; the action may have been carried out nevertheless.
            AnkiError: the answer is not from AnkiConnect, or it refuses.
        """
        answer = self._answer(action, self._request(action, parameters), idempotent=idempotent)
        if not isinstance(answer, dict) or "error" not in answer or "result" not in answer:
            # Before version 5, the result was the whole answer.
            if action == "version" and isinstance(answer, int):
                return answer
            raise self._errors.unexpected(action)
        if answer["error"] is not None:
            problem = str(answer["error"])
            self._errors.raise_general(action, problem)
            raise self._errors.rejected(action, problem)
        return answer["result"]

    def _answer(self, action: str, request: dict[str, Any], *, idempotent: bool) -> Any:
        attempt = 0
        while True:
            try:
                response = self._client.post(self._url, json=request)
                response.raise_for_status()
                return response.json()
            # Never "from error": the client's own text may repeat the URL with its password.
            except (httpx.HTTPStatusError, httpx.DecodingError):
                raise self._errors.unexpected(action) from None
            except httpx.TransportError as error:
                # Without a connection, nothing was carried out.
                repeatable = idempotent or isinstance(error, httpx.ConnectError)
                if not repeatable or attempt == RETRIES:
                    raise self._errors.unavailable(action, error) from None
            except ValueError:
                raise self._errors.unexpected(action) from None
            attempt += 1
            time.sleep(0.5 * attempt)


def _note(info: Mapping[str, Any]) -> Note:
    """A note as ``notesInfo`` describes it."""
    fields = {name: field["value"] for name, field in info["fields"].items()}
    cards = map(int, info.get("cards", ()))
    return Note(int(info["noteId"]), info["modelName"], fields, tuple(info["tags"]), tuple(cards))


def _size(fields: Mapping[str, str]) -> int:
    return _OVERHEAD + sum(len(text.encode()) for text in fields.values())
