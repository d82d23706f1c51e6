"""Anki by AnkiConnect: the desktop program is running and answers over HTTP.

The protocol is that of AnkiConnect's version 6: one JSON object is asked, one is answered, and
``multi`` carries many. A request that may have been carried out although its answer was lost is
sent again only when doing it twice is doing it once; making notes is not.
"""

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import SecretStr

from pipeline.anki.store.errors import AnkiError, AnkiGone
from pipeline.anki.store.notes import NewNote, Note, Refusal
from pipeline.core import urls
from pipeline.core.errors import SettingsError

VERSION = 6
TIMEOUT = 30.0
_T = TypeVar("_T")
RETRIES = 2
"""How often a request that may be repeated is, after half a second and after one."""

_AT_ONCE = 100
_NOTES_AT_ONCE = 500
_MEDIA_AT_ONCE = 4
"""Recordings are small, but an answer holds all of them at once."""
_SAID = 200


class AnkiConnect:
    """A running Anki."""

    def __init__(self, url: str, *, key: SecretStr | None = None, timeout: float = TIMEOUT) -> None:
        """Nothing is sent before the block begins.

        Args:
            url: where AnkiConnect listens, ``http://127.0.0.1:8765``.
            key: its ``apiKey``; it stands in no message.
            timeout: how many seconds an answer may take.

        Raises:
            SettingsError: the URL is none, or has more than one reading.
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
        self._encrypted = parts.scheme == "https"

    def __enter__(self) -> Self:
        """See that Anki answers and can be used.

        Raises:
            AnkiGone: nobody answers there.
            AnkiError: it is not AnkiConnect, too old, or refuses the key.
        """
        # It would write the URL into the log, with its user and password.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.Client(
            timeout=self._timeout,
            trust_env=False,
            # Loading certificates takes longer than most answers.
            verify=self._encrypted,
            # AnkiConnect closes after each answer without saying so.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        with contextlib.ExitStack() as failed:
            failed.callback(self._client.close)
            found = self._ask("version", again=True)
            if not isinstance(found, int) or found < VERSION:
                raise AnkiError(
                    f"{self.shown} has version {found} of AnkiConnect, {VERSION} is needed",
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

    def decks(self) -> list[str]:
        """Names of the decks there are."""
        return [str(name) for name in self._list("deckNames")]

    def create_deck(self, name: str) -> None:
        """Make a deck."""
        self._ask("createDeck", again=True, deck=name)

    def fields_of(self, note_type: str) -> list[str] | None:
        """Names of a note type's fields, None if there is no such type."""
        if note_type not in self._list("modelNames"):
            return None
        return [str(name) for name in self._list("modelFieldNames", modelName=note_type)]

    def find(self, tag: str) -> list[int]:
        """Ids of the notes with a tag; it may end in ``*``."""
        return [int(number) for number in self._list("findNotes", query=f"tag:{tag}")]

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """Those of the notes that exist."""
        return {
            int(info["noteId"]): Note(
                int(info["noteId"]),
                info["modelName"],
                {name: field["value"] for name, field in info["fields"].items()},
                tuple(info["tags"]),
            )
            for info in self._infos(ids)
        }

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Make notes; for each its id, or why Anki did not make it."""
        made: list[int | Refusal] = []
        for some in _parts(notes, _AT_ONCE):
            answers = self._multi(
                "addNote",
                [
                    {
                        "note": {
                            "deckName": new.deck,
                            "modelName": new.note_type,
                            "fields": dict(new.fields),
                            "tags": list(new.tags),
                            # Tags tell notes apart, not what stands on their fronts.
                            "options": {"allowDuplicate": True},
                        }
                    }
                    for new in some
                ],
                again=False,
            )
            made += [
                answer if isinstance(answer, int | Refusal) else Refusal("it gave no id")
                for answer in answers
            ]
        return made

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write fields of notes: id -> name -> HTML; the notes that Anki did not take."""
        refused = {}
        for some in _parts(list(fields.items()), _AT_ONCE):
            answers = self._multi(
                "updateNoteFields",
                [{"note": {"id": number, "fields": dict(values)}} for number, values in some],
                again=True,
            )
            for (number, _), answer in zip(some, answers, strict=True):
                if isinstance(answer, Refusal):
                    refused[number] = answer
        return refused

    def tag(self, tags: Mapping[int, str]) -> None:
        """Give each of these notes a tag."""
        for some in _parts(list(tags.items()), _AT_ONCE):
            wanted = [{"notes": [number], "tags": tag} for number, tag in some]
            self._multi("addTags", wanted, again=True)

    def untag(self, ids: Collection[int], tag: str) -> None:
        """Take a tag from notes."""
        self._ask("removeTags", again=True, notes=list(ids), tags=tag)

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        cards = [int(card) for info in self._infos(ids) for card in info["cards"]]
        if cards:
            self._ask("suspend", again=True, cards=cards)

    def media_names(self) -> set[str]:
        """Names of all media files."""
        return {str(name) for name in self._list("getMediaFilesNames", pattern="*")}

    def media(self, names: Collection[str]) -> dict[str, str]:
        """MD5 of the media files of these names that exist, in hexadecimal."""
        found = {}
        for some in _parts(list(names), _MEDIA_AT_ONCE):
            wanted = [{"filename": name} for name in some]
            answers = self._multi("retrieveMediaFile", wanted, again=True)
            for name, answer in zip(some, answers, strict=True):
                if isinstance(answer, str):
                    data = base64.b64decode(answer)
                    found[name] = hashlib.md5(data).hexdigest()  # noqa: S324
        return found

    def store(self, name: str, data: bytes) -> None:
        """Write a media file, in place of one of that name."""
        text = base64.b64encode(data).decode("ascii")
        self._ask("storeMediaFile", again=True, filename=name, data=text)

    def _infos(self, ids: Collection[int]) -> Iterator[dict[str, Any]]:
        for some in _parts(sorted(ids), _NOTES_AT_ONCE):
            # What does not exist is answered by an empty object, or by null.
            yield from (info for info in self._list("notesInfo", notes=some) if info)

    def _multi(
        self, action: str, parameters: Sequence[Mapping[str, Any]], *, again: bool
    ) -> list[Any]:
        """One action with several parameters in one request; a refusal where it was refused."""
        actions = [self._request(action, each) for each in parameters]
        answers = self._ask("multi", again=again, actions=actions)
        if not isinstance(answers, list) or len(answers) != len(parameters):
            raise self._strange("multi")
        return [self._result(action, answer) for answer in answers]

    def _result(self, action: str, answer: Any) -> Any:
        if isinstance(answer, dict) and answer.keys() == {"result", "error"}:
            if answer["error"] is not None:
                said = str(answer["error"])
                self._refuse_all(action, said)
                return Refusal(said[:_SAID])
            return answer["result"]
        return answer

    def _list(self, action: str, **parameters: Any) -> list[Any]:
        """What is read as a list."""
        answer = self._ask(action, again=True, **parameters)
        if not isinstance(answer, list):
            raise self._strange(action)
        return answer

    def _request(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"action": action, "version": VERSION, "params": dict(parameters)}
        if self._key is not None and self._key.get_secret_value():
            request["key"] = self._key.get_secret_value()
        return request

    def _ask(self, action: str, *, again: bool, **parameters: Any) -> Any:
        """One request.

        Args:
            action: what Anki is to do.
            again: whether doing it twice is doing it once.
            parameters: of the action.

        Raises:
            AnkiGone: no answer came; where ``again`` is False it may have been done all the same.
            AnkiError: what answers is not AnkiConnect, or it refuses.
        """
        answer = self._answer(action, self._request(action, parameters), again=again)
        if not isinstance(answer, dict) or "error" not in answer or "result" not in answer:
            # Before version 5 a result stood alone.
            if action == "version" and isinstance(answer, int):
                return answer
            raise self._strange(action)
        if answer["error"] is not None:
            said = str(answer["error"])
            self._refuse_all(action, said)
            raise AnkiError(
                f"{self.shown} refused {action} ({said[:_SAID]})",
                remedy="What was confirmed before is kept; run again afterwards",
            )
        return answer["result"]

    def _answer(self, action: str, request: dict[str, Any], *, again: bool) -> Any:
        attempt = 0
        while True:
            try:
                response = self._client.post(self._url, json=request)
                response.raise_for_status()
                return response.json()
            # Never "from error": the client's own text may repeat the URL with its password.
            except httpx.HTTPStatusError:
                raise self._strange(action) from None
            except httpx.TransportError as error:
                # Who was never reached has done nothing.
                repeatable = again or isinstance(error, httpx.ConnectError)
                if not repeatable or attempt == RETRIES:
                    raise self._gone(action, error) from None
            except ValueError:
                raise self._strange(action) from None
            attempt += 1
            time.sleep(0.5 * attempt)

    def _gone(self, action: str, error: Exception) -> AnkiGone:
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            return AnkiGone(
                f"{self.shown} did not answer {action} within {self._timeout:g} s",
                remedy="See whether a window of Anki waits for you, then run again",
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return AnkiGone(
                f"{self.shown} does not answer",
                remedy="Start Anki with the add-on AnkiConnect, or correct ANKI_CONNECT_URL",
            )
        return AnkiGone(
            f"{self.shown} broke off while it answered {action}",
            remedy="Run again; what was done meanwhile is found then",
        )

    def _strange(self, action: str) -> AnkiError:
        return AnkiError(
            f"{self.shown} did not answer {action} as AnkiConnect does",
            remedy="Check ANKI_CONNECT_URL",
        )

    def _refuse_all(self, action: str, said: str) -> None:
        """What is wrong with more than one request ends the run."""
        for words, remedy in _REMEDIES.items():
            if words in said:
                raise AnkiError(f"{self.shown} refused {action} ({said[:_SAID]})", remedy=remedy)
        if "api key" in said.lower():
            raise AnkiError(
                f"{self.shown} refused the key",
                remedy="Set ANKI_CONNECT_KEY to the apiKey in AnkiConnect's configuration",
            )


_REMEDIES = {
    "collection is not available": "Open a profile in Anki, then run again",
    "unsupported action": "Update the add-on AnkiConnect in Anki",
}


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
