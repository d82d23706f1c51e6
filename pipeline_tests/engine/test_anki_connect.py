"""What AnkiConnect can be in trouble with: it is told in a sentence, and the next run heals it."""

import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from pipeline.anki.store.connect import AnkiConnect
from pipeline.anki.store.errors import AnkiError, AnkiUnavailable
from pipeline.anki.store.notes import NewNote
from pipeline.core.errors import SettingsError
from pipeline_tests.support.anki_server import FULL_DISK, AnkiServer
from pipeline_tests.support.anki_world import (
    DECK,
    KEY,
    ServerWay,
    World,
    actions,
    field_names,
    told,
)

AGAIN = 3
"""How often a request is sent that may be repeated."""

NEW = NewNote(DECK, "Basic", {"Front": "f", "Back": "b"}, ("sync::content::1",))


def refused(error: AnkiError) -> tuple[type[AnkiError], str, str]:
    """What an error says; the key is nowhere in it."""
    assert KEY not in "".join(traceback.format_exception(error))
    assert str(error) == f"{error.problem}. {error.remedy}."
    return type(error), error.problem, error.remedy


def detail(world: World, **options: Any) -> tuple[type[AnkiError], str, str]:
    """What a sync that fails as a whole says, where Anki is called HERE."""
    with pytest.raises(AnkiError) as caught:
        world.sync(**options)
    kind, problem, remedy = refused(caught.value)
    return kind, problem.replace(world.strategy.open().shown, "HERE"), remedy


def impatient(world: World, seconds: float = 0.1) -> None:
    """Let the client wait only so long from now on."""
    world.strategy = replace(cast(ServerWay, world.strategy), timeout=seconds)


def patient(world: World) -> None:
    """Let the client wait as long as usual again."""
    impatient(world, 30)


# As a whole

NO_KEY = (
    AnkiError,
    "HERE rejected the API key",
    "Set ANKI_CONNECT_KEY to the apiKey in AnkiConnect's configuration",
)
STRANGE = (
    AnkiError,
    "HERE answered {} in a format that is not AnkiConnect's",
    "Check ANKI_CONNECT_URL",
)
BROKEN = (
    AnkiUnavailable,
    "HERE closed the connection during {}",
    "Run again; the next run detects what was written",
)
SILENT = (
    AnkiUnavailable,
    "HERE did not answer {} within 0.1 s",
    "Check whether a dialog is open in Anki, then run again",
)
NO_PROFILE = (
    AnkiError,
    "HERE rejected {} (collection is not available)",
    "Open a profile in Anki, then run again",
)
OLD = (
    AnkiError,
    "HERE has version 5 of AnkiConnect, but version 6 or newer is required",
    "Update the add-on AnkiConnect in Anki",
)

ACTIONS = ("version", "findNotes", "modelNames", "modelFieldNames", "deckNames")


LOOKING = [
    *(("closed before", action, BROKEN) for action in ACTIONS),
    *(("html", action, STRANGE) for action in ACTIONS),
    ("status 500", "findNotes", STRANGE),
    ("lost after", "findNotes", BROKEN),
]


@pytest.mark.parametrize(("kind", "action", "expected"), LOOKING)
def test_a_fault_while_it_looks_is_told_and_nothing_is_done(
    server_world: World,
    anki_server: AnkiServer,
    action: str,
    kind: Any,
    expected: tuple[type[AnkiError], str, str],
) -> None:
    server_world.words(1)
    before = server_world.everything()
    with anki_server.fault(kind, action) as fault:
        error, problem, remedy = expected
        assert detail(server_world) == (error, problem.format(action), remedy)
        assert fault.seen == (AGAIN if expected is BROKEN else 1)
    assert server_world.everything() == before
    assert actions(server_world.sync()) == [(1, "created")]


@pytest.mark.parametrize(
    ("kind", "action", "expected"),
    [
        ("silent", "findNotes", SILENT),
        ("no profile", "findNotes", NO_PROFILE),
        ("old version", None, OLD),
        (
            "full disk",
            "createDeck",
            (
                AnkiError,
                f"HERE rejected createDeck ({FULL_DISK})",
                "Fix the problem in Anki, then run again; confirmed exports are saved",
            ),
        ),
    ],
)
def test_what_anki_says_is_passed_on_with_a_remedy(
    server_world: World,
    anki_server: AnkiServer,
    kind: Any,
    action: str | None,
    expected: tuple[type[AnkiError], str, str],
) -> None:
    server_world.words(1)
    impatient(server_world)
    with anki_server.fault(kind, action):
        error, problem, remedy = expected
        expected = (error, problem.format(action), remedy)
        assert detail(server_world, deck="verbs", create_decks=True) == expected
    patient(server_world)
    server_world.sync(create_decks=True)
    assert server_world.followed() == server_world.all_followed()


@pytest.mark.parametrize("action", [*ACTIONS[1:], "notesInfo", "getMediaFilesNames"])
def test_an_answer_of_null_where_there_has_to_be_a_list_is_strange(
    server_world: World, anki_server: AnkiServer, action: str
) -> None:
    server_world.words(1)
    server_world.sync()
    server_world.change(1, native_text="ใหม่")
    with anki_server.fault("null result", action):
        error, problem, remedy = STRANGE
        assert detail(server_world) == (error, problem.format(action), remedy)


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_a_key_that_is_not_right_is_told_without_it(
    server_world: World, anki_server: AnkiServer, key: str | None
) -> None:
    secret = None if key is None else SecretStr(key)
    with (
        pytest.raises(AnkiError) as caught,
        AnkiConnect(anki_server.url, key=secret),
    ):
        pass
    assert refused(caught.value) == (
        AnkiError,
        f"Anki at {anki_server.url} rejected the API key",
        "Set ANKI_CONNECT_KEY to the apiKey in AnkiConnect's configuration",
    )


def test_a_key_that_is_changed_meanwhile_is_told(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1)

    def changes(moment: str) -> None:
        if moment == "before add":
            anki_server.key = "another"

    assert detail(server_world, happens=changes) == NO_KEY
    anki_server.key = KEY
    server_world.sync()
    assert server_world.followed() == server_world.all_followed()


def test_a_key_stands_in_no_text_of_the_client(anki_server: AnkiServer) -> None:
    client = AnkiConnect(anki_server.url, key=SecretStr(KEY))
    assert KEY not in repr(vars(client)) + repr(client) + client.shown


def test_a_password_in_the_url_stands_in_no_message(no_pauses: None) -> None:
    client = AnkiConnect("http://user:pass-word@127.0.0.1:9")
    with pytest.raises(AnkiUnavailable) as caught, client:
        pass
    assert "pass-word" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.problem == "Anki at http://127.0.0.1:9 does not answer"


def test_where_nobody_listens_it_does_not_answer(no_pauses: None) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(AnkiUnavailable) as caught, AnkiConnect(f"http://127.0.0.1:{port}"):
        pass
    assert refused(caught.value) == (
        AnkiUnavailable,
        f"Anki at http://127.0.0.1:{port} does not answer",
        "Start Anki with the add-on AnkiConnect, or correct ANKI_CONNECT_URL",
    )


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://127.0.0.1:port"])
def test_a_url_that_cannot_be_used_is_told(no_pauses: None, url: str) -> None:
    with pytest.raises(SettingsError, match="ANKI_CONNECT_URL is malformed or ambiguous"):
        AnkiConnect(url)


def test_a_server_that_speaks_no_http_is_told(no_pauses: None) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def greet() -> None:
            for _ in range(AGAIN):
                connection, _ = server.accept()
                connection.recv(10_000)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AnkiError) as caught, AnkiConnect(url):
            pass
    assert refused(caught.value)[1].startswith(f"Anki at {url} ")


def test_the_server_of_the_tests_refuses_what_the_add_on_refuses(anki_server: AnkiServer) -> None:
    def ask(action: str, **parameters: Any) -> Any:
        request = {"action": action, "version": 6, "params": parameters, "key": KEY}
        answer = httpx.post(anki_server.url, json=request)
        return answer.status_code, answer.json()["result"], answer.json()["error"]

    def note(front: str, **options: Any) -> dict[str, Any]:
        fields = {"front": front, "Back": "b"}
        return {"deckName": DECK, "modelName": "Basic", "fields": fields, "options": options}

    _, first, _ = ask("addNote", note=note("f"))
    assert ask("addNote", note=note("")) == (
        200,
        None,
        "cannot create note because it is empty",
    )
    duplicate = "cannot create note because it is a duplicate"
    assert ask("addNote", note=note("f")) == (200, None, duplicate)
    _, (second, third), _ = ask("addNotes", notes=[note("g"), note("f")])
    assert (isinstance(second, int), third) == (True, None)
    _, fourth, _ = ask("addNote", note=note("f", allowDuplicate=True))
    assert ask("findNotes", query="deck:*") == (200, sorted([first, second, fourth]), None)
    ask("updateNoteTags", note=first, tags=["a", "b"])
    assert ask("findNotes", query="tag:a") == (200, [first], None)
    ask("deleteNotes", notes=[second])
    _, infos, _ = ask("notesInfo", notes=[first, second])
    assert [info.get("tags") for info in infos] == [["a", "b"], None]
    assert ask("retrieveMediaFile", filename="nowhere.mp3") == (200, False, None)
    assert ask("nothing") == (200, None, "unsupported action")
    inner = [{"action": "version", "version": 6}, {"action": "version", "version": 6, "key": KEY}]
    assert ask("multi", actions=inner) == (
        200,
        [
            {"result": None, "error": "valid api key must be provided"},
            {"result": 6, "error": None},
        ],
        None,
    )


def test_an_empty_body_is_answered_by_plain_text(anki_server: AnkiServer) -> None:
    assert httpx.post(anki_server.url, content=b"").text == "AnkiConnect"


def test_an_action_that_is_not_supported_is_told(anki_server: AnkiServer) -> None:
    client = AnkiConnect(anki_server.url, key=SecretStr(KEY))
    with pytest.raises(AnkiError, match="unsupported action") as caught, client:
        client._ask("guiBrowse", idempotent=True)
    assert refused(caught.value)[2] == "Update the add-on AnkiConnect in Anki"


# Making notes


@pytest.mark.parametrize("kind", ["lost after", "closed before", "silent"])
def test_a_request_that_makes_notes_is_sent_once(
    server_world: World, anki_server: AnkiServer, kind: Any
) -> None:
    server_world.words(1, 2)
    impatient(server_world, 0.3)
    with anki_server.fault(kind, "addNote") as fault:
        error, problem, remedy = SILENT if kind == "silent" else BROKEN
        problem = problem.format("multi").replace("0.1", "0.3")
        assert detail(server_world) == (error, problem, remedy)
        assert fault.seen == 1
    patient(server_world)
    assert server_world.cards() == []
    became = "created" if kind == "closed before" else "adopted"
    assert actions(server_world.sync()) == [(1, became), (2, became)]
    assert server_world.followed() == server_world.all_followed()


def test_what_was_confirmed_before_an_answer_was_lost_is_kept(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(*range(1, 151))
    with anki_server.fault("lost after", "addNote", only=2):
        assert detail(server_world)[0] is AnkiUnavailable
    assert [card.content for card in server_world.cards()] == list(range(1, 101))
    report = server_world.sync()
    assert (report.counts, server_world.followed()) == (
        {"skipped": 100, "adopted": 50},
        server_world.all_followed(),
    )


def test_a_note_that_anki_does_not_make_is_told(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1, 2)
    with anki_server.fault("null, not made", "addNote", only=1):
        assert told(server_world.sync()) == [
            (1, "failed", "Anki did not create the note (the answer has no id)"),
            (2, "created", "in deck top-thai-2000"),
        ]
    assert actions(server_world.sync()) == [(1, "created")]
    assert server_world.followed() == server_world.all_followed()


def test_a_note_that_anki_makes_without_saying_so_is_found(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1, 2)
    with anki_server.fault("null, made", "addNote"):
        assert actions(server_world.sync()) == [(1, "created"), (2, "created")]
    assert server_world.followed() == server_world.all_followed()


def test_a_note_whose_front_is_empty_fails_alone(server_world: World, tmp_path: Path) -> None:
    server_world.words(1, 2)
    (tmp_path / "front.html").write_text("{{ content.ipa if content.id > 1 }}")
    (tmp_path / "back.html").write_text("{{ content.translation }}")
    assert [
        (number, what, "empty" in detail)
        for number, what, detail in told(server_world.sync(templates=tmp_path))
    ] == [(1, "failed", True), (2, "created", False)]


def test_two_contents_with_one_front_are_two_notes(server_world: World) -> None:
    for number in (1, 2):
        server_world.content(number, native_text="เหมือน", ipa="")
    server_world.sync()
    assert server_world.followed() == server_world.all_followed()


@pytest.mark.parametrize(
    ("kind", "why"), [("full disk", FULL_DISK), ("no profile", "collection is not available")]
)
@pytest.mark.parametrize("action", ["addNote", "updateNoteFields", "storeMediaFile"])
def test_why_anki_did_not_take_it_is_told(
    server_world: World, anki_server: AnkiServer, action: str, kind: Any, why: str
) -> None:
    server_world.words(1)
    server_world.sync()
    server_world.change(1, native_text="ใหม่")
    server_world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100")
    server_world.words(2)
    with anki_server.fault(kind, action):
        try:
            details = [detail for _, what, detail in told(server_world.sync()) if what == "failed"]
        except AnkiError as error:
            details = [error.problem]
    assert [detail for detail in details if why not in detail] == []
    assert details != []
    server_world.sync()
    assert server_world.followed() == server_world.all_followed()


@pytest.mark.parametrize("action", ["addNote", "retrieveMediaFile"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [("wrong key", NO_KEY), ("short multi", (STRANGE[0], STRANGE[1].format("multi"), STRANGE[2]))],
)
def test_what_goes_wrong_within_a_request_of_several_is_told(
    server_world: World, anki_server: AnkiServer, action: str, fault: Any, said: Any
) -> None:
    server_world.words(1, 2)
    error, problem, remedy = said
    with anki_server.fault(fault, action):
        assert detail(server_world) == (error, problem.format("multi"), remedy)
    server_world.sync()
    assert server_world.followed() == server_world.all_followed()


# Changing notes


def test_fields_that_anki_pretends_to_write_are_told_and_written_later(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1, 2)
    server_world.sync()
    cards = server_world.cards()
    for number in (1, 2):
        server_world.change(number, native_text="ใหม่", translation="new")
    number = server_world.note(1).id
    with anki_server.fault("pretends", "updateNoteFields", only=1):
        assert told(server_world.sync()) == [
            (
                1,
                "failed",
                f"Anki did not store Front, Back of note {number}; close Anki's browser and run"
                " again",
            ),
            (2, "updated", f"Front, Back of note {server_world.note(2).id}"),
        ]
    assert server_world.cards()[0] == cards[0]
    assert actions(server_world.sync()) == [(1, "updated")]
    assert server_world.followed() == server_world.all_followed()


def test_a_tag_that_anki_pretends_to_give_is_told(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1)
    number = server_world.add_note(*field_names(1).values())
    server_world.card(1, number)
    with anki_server.fault("pretends", "addTags"):
        assert told(server_world.sync()) == [
            (1, "failed", f"Anki did not store the tag of note {number}")
        ]
    assert actions(server_world.sync()) == [(1, "updated")]
    assert server_world.by_content()[1][0].id == number
    assert actions(server_world.sync()) == []


@pytest.mark.parametrize("kind", ["lost after", "closed before", "silent"])
@pytest.mark.parametrize("action", ["updateNoteFields", "storeMediaFile", "notesInfo"])
def test_a_request_that_may_be_repeated_is(
    server_world: World, anki_server: AnkiServer, action: str, kind: Any
) -> None:
    server_world.words(1)
    server_world.sync()
    server_world.change(1, native_text="ใหม่")
    server_world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100")
    impatient(server_world, 0.3)
    with anki_server.fault(kind, action, only=1):
        assert actions(server_world.sync()) == [(1, "updated")]
    patient(server_world)
    assert server_world.followed() == server_world.all_followed()


@pytest.mark.parametrize("kind", ["lost after", "closed before"])
@pytest.mark.parametrize("action", ["updateNoteFields", "storeMediaFile", "notesInfo"])
def test_what_never_succeeds_is_made_good_by_the_next_run(
    server_world: World, anki_server: AnkiServer, action: str, kind: Any
) -> None:
    server_world.words(1)
    server_world.sync()
    server_world.change(1, native_text="ใหม่")
    server_world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100")
    with anki_server.fault(kind, action):
        assert detail(server_world)[0] is AnkiUnavailable
    assert actions(server_world.sync()) == [(1, "updated")]
    assert server_world.followed() == server_world.all_followed()


@pytest.mark.parametrize("kind", ["lost after", "closed before"])
@pytest.mark.parametrize("action", ["suspend", "addTags"])
def test_a_note_that_could_not_be_marked_is_marked_by_the_next_run(
    server_world: World, anki_server: AnkiServer, action: str, kind: Any
) -> None:
    server_world.words(1, 2)
    server_world.sync()
    server_world.remove(1)
    with anki_server.fault(kind, action):
        assert detail(server_world, removed="suspend")[0] is AnkiUnavailable
    server_world.sync(removed="suspend")
    note = server_world.note(1)
    assert (note.suspended, "sync::removed" in note.tags) == ((True,), True)


# Recordings


@pytest.mark.parametrize("kind", ["other bytes", "other name"])
def test_a_recording_that_anki_stores_otherwise_keeps_its_note_back(
    server_world: World, anki_server: AnkiServer, kind: Any
) -> None:
    server_world.words(1, 2)
    with anki_server.fault(kind, "storeMediaFile", only=1):
        assert told(server_world.sync()) == [
            (1, "failed", "Anki did not store asset_100.mp3 correctly"),
            (2, "created", "in deck top-thai-2000"),
        ]
    assert [card.content for card in server_world.cards()] == [2]
    assert list(server_world.by_content()) == [2]
    assert actions(server_world.sync()) == [(1, "created")]
    assert server_world.followed() == server_world.all_followed()


def test_recordings_are_asked_for_by_parts_and_all_compared(server_world: World) -> None:
    server_world.words(*range(1, 31))
    server_world.sync()
    with server_world.strategy.open() as anki:
        media = server_world.media()
        assert anki.media(dict.fromkeys([*media, "nowhere.mp3"], 20)) == {
            name: each.md5
            for rendered in server_world.rendered().values()
            for each in rendered.sounds
            for name in [each.file]
        }


# The connection


@contextmanager
def closing_late(server: AnkiServer, seconds: float) -> Iterator[str]:
    """A way to the server that closes a connection a while after each answer, unannounced."""
    port = int(server.url.rpartition(":")[2])
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def pass_on(client: socket.socket) -> None:
            with closing(client), closing(socket.create_connection(("127.0.0.1", port))) as anki:
                head, _, body = client.recv(1 << 20).partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += client.recv(1 << 20)
                anki.sendall(head + b"\r\n\r\n" + body)
                answer = b"".join(iter(lambda: anki.recv(1 << 20), b""))
                client.sendall(answer.replace(b"Connection: close\r\n", b""))
                time.sleep(seconds)

        def listen() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=pass_on, args=(client,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_connection_that_is_closed_between_two_requests_loses_no_note(
    anki_server: AnkiServer,
) -> None:
    # The add-on closes after each answer and does not say so beforehand.
    with (
        closing_late(anki_server, 0.05) as url,
        AnkiConnect(url, key=SecretStr(KEY), timeout=5) as anki,
    ):
        (number,) = anki.add([NEW])
        assert number is not None
        assert anki.find("sync::content::1") == [number]
