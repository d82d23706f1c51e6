"""Cards in SQLite, beside contents in PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from pipeline.application.errors import NotFound, Refused, Unreadable
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import CardCreate, CardUpdate
from pipeline.core.errors import SourceError
from pipeline_tests.support.services import Door

DECK = "top-thai-2000"


def test_a_card_is_read_as_it_was_written_and_changed(door: Door) -> None:
    content = door.add_content()
    payload = CardCreate(
        anki_note_id=1_754_000_000_000,
        deck_name="ไทย 🙏",
        tags=["sync::new", "e\u0301"],
        learning_content_id=content,
        export_hash="",
    )
    number = door.cards.create(payload)
    before = door.cards.get(number)
    assert before.model_dump(exclude={"id", "created_at", "updated_at"}) == payload.model_dump()
    assert before.created_at == before.updated_at is not None
    door.cards.update(number, CardUpdate(tags=["sync::success"], anki_note_id=None))
    after = door.cards.get(number)
    changed = {"tags": ("sync::success",), "anki_note_id": None, "updated_at": after.updated_at}
    assert after.model_dump() == {**before.model_dump(), **changed}
    assert after.updated_at is not None and before.updated_at is not None
    assert after.updated_at > before.updated_at


def test_dates_are_written_in_the_form_of_the_application(door: Door) -> None:
    door.cards.create(CardCreate(deck_name=DECK))
    ((created, tags),) = door.sqlite("SELECT created_at, tags FROM anki_cards")
    assert len(created) == len("2025-08-06 03:07:13.716509") and created[10] == " "
    assert tags is None


def test_cards_are_listed_page_by_page_and_of_a_content(door: Door) -> None:
    content = door.add_content()
    numbers = [
        door.cards.create(CardCreate(deck_name=DECK, learning_content_id=which))
        for which in (content, None, content)
    ]
    page = door.cards.list(limit=2, offset=1)
    assert ([card.id for card in page.items], page.total) == (numbers[1:], 3)
    mine = door.cards.by_content(content, limit=1, offset=1)
    assert ([card.id for card in mine.items], mine.total) == ([numbers[2]], 2)
    assert door.cards.by_content(99).items == ()
    with pytest.raises(Refused, match="A page cannot"):
        door.cards.list(limit=501)


def test_a_card_of_no_content_is_not_made(door: Door) -> None:
    card = door.cards.create(CardCreate(deck_name=DECK))
    with pytest.raises(NotFound, match="learning_content has no row 99"):
        door.cards.create(CardCreate(deck_name=DECK, learning_content_id=99))
    with pytest.raises(NotFound, match="learning_content has no row 99"):
        door.cards.update(card, CardUpdate(learning_content_id=99))
    assert door.sqlite("SELECT learning_content_id FROM anki_cards") == [(None,)]


def test_a_card_that_is_not_there_is_named(door: Door) -> None:
    for call in (
        lambda: door.cards.get(5),
        lambda: door.cards.update(5, CardUpdate()),
        lambda: door.cards.update(5, CardUpdate(deck_name="x")),
        lambda: door.cards.delete(5),
    ):
        with pytest.raises(NotFound, match="anki_cards has no row 5"):
            call()
    with pytest.raises(Refused, match="too large"):
        door.cards.get(2**63)


def test_a_note_belongs_to_one_card(door: Door) -> None:
    door.cards.create(CardCreate(deck_name=DECK, anki_note_id=7))
    with pytest.raises(Refused, match=r"UNIQUE constraint failed: anki_cards.anki_note_id"):
        door.cards.create(CardCreate(deck_name=DECK, anki_note_id=7))
    assert door.cards.list().total == 1


@pytest.mark.parametrize(
    "tags",
    ["['a', 'b']", '{"a": 1}', '"a"', "[1]", "", "[", "[" * 100_000, b'["\xe0\xb8"]', 5],
)
def test_tags_that_cannot_be_read_name_their_card(door: Door, tags: object) -> None:
    sound = door.cards.create(CardCreate(deck_name=DECK, tags=["a"]))
    odd = door.cards.create(CardCreate(deck_name=DECK))
    cast = "CAST(:tags AS TEXT)" if isinstance(tags, bytes) else ":tags"
    door.sqlite(f"UPDATE anki_cards SET tags = {cast} WHERE id = :id", tags=tags, id=odd)
    for call in (lambda: door.cards.get(odd), door.cards.list):
        with pytest.raises(Unreadable, match=f"anki_cards {odd}: tags"):
            call()
    assert door.cards.get(sound).tags == ("a",)


def test_json_null_and_odd_dates_are_read(door: Door) -> None:
    number = door.cards.create(CardCreate(deck_name=DECK))
    door.sqlite("UPDATE anki_cards SET tags = 'null', created_at = 'next tuesday'")
    met = door.cards.get(number)
    assert (met.tags, met.created_at) == (None, None)


def test_what_a_card_cannot_hold_is_refused() -> None:
    for values in (
        {"deck_name": "x" * 256},
        {"deck_name": "\0"},
        {"deck_name": None},
        {"deck_name": DECK, "tags": ["\ud800"]},
        {"deck_name": DECK, "anki_note_id": 2**63},
    ):
        with pytest.raises(ValidationError):
            CardCreate(**values)


def test_a_second_writer_waits_and_is_then_told_who_is_in_the_way(door: Door) -> None:
    path = door.databases.sqlite_path
    with (
        HybridDatabaseManager(path, "postgresql://") as other,
        other.get_sqlite_session(write=True),
    ):
        assert door.cards.list().total == 0
        with pytest.raises(SourceError, match=r"cards.db: another process is writing to it"):
            door.cards.create(CardCreate(deck_name=DECK))
    door.cards.create(CardCreate(deck_name=DECK))
    assert door.cards.list().total == 1


def test_writers_at_once_lose_nothing(door: Door) -> None:
    databases = HybridDatabaseManager(door.databases.sqlite_path, "postgresql://", busy_seconds=30)
    together = threading.Barrier(4)

    def write(_: int) -> None:
        together.wait()
        for _ in range(10):
            Door.over(databases).cards.create(CardCreate(deck_name=DECK))

    with databases, ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert door.cards.list().total == 40
