"""Deleting a content: neither database keeps what the other has no more."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.application.errors import NotFound, Refused
from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.models import CardCreate, RankingCreate
from pipeline.core.errors import SourceError
from pipeline_tests.support.services import MP3, Door

TABLES = ("learning_content", "content_fragments", "fragment_assets", "rankings")
LOCAL = ("anki_cards", "vector_embeddings", "vector_search")


@pytest.fixture
def family(door: Door) -> Iterator[Door]:
    """Contents 1 and 2, each with everything that hangs below one; card 3 belongs to none."""
    for number in (1, 2):
        fragment = door.add_fragment(door.add_content())
        asset = door.assets.store_asset(fragment, MP3, "audio")
        door.rankings.rate_asset(asset, RankingCreate(rank_score=5, assessed_by="nok"))
        card = door.cards.create(CardCreate(deck_name="d", learning_content_id=number))
        door.vectors.store(card, "front", [1, 0])
    door.vectors.store(door.cards.create(CardCreate(deck_name="d")), "front", [1, 0])
    return door


def left(door: Door) -> dict[str, list[int]]:
    """The ids that there are, by table."""
    found = {name: door.postgres(f"SELECT id FROM {name} ORDER BY id") for name in TABLES}
    found |= {name: door.sqlite(f"SELECT id FROM {name} ORDER BY id") for name in LOCAL}
    return {name: [number for (number,) in rows] for name, rows in found.items()}


ALL = {name: [1, 2] for name in TABLES} | {name: [1, 2, 3] for name in LOCAL}
WITHOUT_1 = {name: [2] for name in TABLES} | {name: [2, 3] for name in LOCAL}


def test_a_content_goes_with_all_that_is_its_own(family: Door) -> None:
    family.contents.delete(1)
    assert left(family) == WITHOUT_1


def test_a_card_goes_with_its_vectors(family: Door) -> None:
    family.cards.delete(1)
    assert left(family) == ALL | {name: [2, 3] for name in LOCAL}


def test_a_content_that_is_not_there_takes_no_card_with_it(family: Door) -> None:
    family.sqlite("UPDATE anki_cards SET learning_content_id = 99 WHERE id = 1")
    with pytest.raises(NotFound, match="learning_content has no row 99"):
        family.contents.delete(99)
    assert left(family) == ALL


def test_a_content_goes_where_no_vector_can_be_searched_yet(door: Door) -> None:
    number = door.add_content()
    door.cards.create(CardCreate(deck_name="d", learning_content_id=number))
    door.contents.delete(number)
    assert door.sqlite("SELECT * FROM anki_cards") == []
    assert door.sqlite("SELECT name FROM sqlite_master WHERE name = 'vector_search'") == []


def test_a_locked_sqlite_file_leaves_everything(family: Door) -> None:
    path = family.databases.sqlite_path
    with (
        HybridDatabaseManager(path, "postgresql://") as other,
        other.get_sqlite_session(write=True),
        pytest.raises(SourceError, match="another process is writing to it"),
    ):
        family.contents.delete(1)
    assert left(family) == ALL


def test_a_reader_of_the_sqlite_file_that_outlasts_the_wait_leaves_everything(family: Door) -> None:
    path = family.databases.sqlite_path
    with HybridDatabaseManager(path, "postgresql://") as other:
        reader = other.get_sqlite_session(snapshot=True)
        with reader as session:
            assert session.connection().exec_driver_sql("SELECT * FROM anki_cards").first()
            session.connection().exec_driver_sql("SELECT count(*) FROM anki_cards").all()
            with pytest.raises(SourceError, match="another process is writing to it"):
                family.contents.delete(1)
    assert left(family) == ALL


def test_cards_that_cannot_be_deleted_leave_everything(family: Door) -> None:
    family.sqlite(
        "CREATE TRIGGER no BEFORE DELETE ON anki_cards BEGIN SELECT RAISE(ABORT, 'not so'); END"
    )
    with pytest.raises(Refused, match="not so"):
        family.contents.delete(1)
    assert left(family) == ALL


def test_a_content_that_cannot_be_deleted_keeps_its_cards(family: Door) -> None:
    family.postgres("CREATE TABLE other (id integer REFERENCES learning_content)")
    family.postgres("INSERT INTO other VALUES (1)")
    with pytest.raises(Refused, match="still referenced from table"):
        family.contents.delete(1)
    assert left(family) == ALL


def test_a_commit_that_fails_at_last_leaves_a_content_without_card_and_can_be_repeated(
    family: Door,
) -> None:
    family.postgres(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not so' USING ERRCODE = 'integrity_constraint_violation';"
        " END$$"
    )
    family.postgres(
        "CREATE CONSTRAINT TRIGGER late AFTER DELETE ON learning_content"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()"
    )
    with pytest.raises(Refused, match="not so"):
        family.contents.delete(1)
    assert left(family) == {name: [1, 2] for name in TABLES} | {name: [2, 3] for name in LOCAL}
    family.postgres("DROP TRIGGER late ON learning_content")
    family.contents.delete(1)
    assert left(family) == WITHOUT_1


def test_a_card_cannot_be_made_of_a_content_that_is_being_deleted(family: Door) -> None:
    with family.databases.get_postgres_session() as session:
        session.connection().exec_driver_sql("DELETE FROM learning_content WHERE id = 1")
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(
                family.cards.create, CardCreate(deck_name="d", learning_content_id=1)
            )
            with pytest.raises(TimeoutError):
                made.result(timeout=0.3)
            session.commit()
            with pytest.raises(NotFound, match="learning_content has no row 1"):
                made.result(timeout=10)
