"""Vectors of cards: kept twice, searched by direction, made anew."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.application.errors import NotFound, Refused, Unreadable
from pipeline.application.models import CardCreate, Rebuilt
from pipeline_tests.support.services import Door

BOTH = (
    "SELECT e.card_id, e.embedding_type, e.vector_data, e.vector_dimension, s.vector"
    " FROM vector_embeddings e LEFT JOIN vector_search s"
    " ON (s.card_id, s.embedding_type) = (e.card_id, e.embedding_type) ORDER BY e.id"
)


def cards(door: Door, count: int) -> list[int]:
    return [door.cards.create(CardCreate(deck_name="d")) for _ in range(count)]


def blob(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def test_a_vector_is_kept_as_json_and_as_floats(door: Door) -> None:
    (card,) = cards(door, 1)
    door.vectors.store(card, "front", [0.1, -2, 3])
    assert door.sqlite(BOTH) == [(card, "front", "[0.1, -2.0, 3.0]", 3, blob(0.1, -2, 3))]
    met = door.vectors.get(card, "front")
    assert (met.card_id, met.embedding_type, met.vector) == (card, "front", (0.1, -2.0, 3.0))
    assert met.created_at is not None


def test_a_vector_replaces_the_earlier_one_of_its_side_only(door: Door) -> None:
    one, two = cards(door, 2)
    for card, side in ((one, "front"), (one, "back"), (two, "front")):
        door.vectors.store(card, side, [1, 0])
    door.vectors.store(one, "front", [0, 1])
    assert [(row[0], row[1], row[4]) for row in door.sqlite(BOTH)] == [
        (one, "back", blob(1, 0)),
        (two, "front", blob(1, 0)),
        (one, "front", blob(0, 1)),
    ]
    assert door.sqlite("SELECT count(*) FROM vector_search") == [(3,)]


def test_the_nearest_direction_comes_first(door: Door) -> None:
    same, near, across, opposite = cards(door, 4)
    for card, vector in (
        (opposite, [-2, 0]),
        (across, [0, 5]),
        (near, [1, 0.1]),
        (same, [100, 0]),
    ):
        door.vectors.store(card, "combined", vector)
    met = door.vectors.search([1, 0])
    assert [match.card_id for match in met] == [same, near, across, opposite]
    wanted = [0, 1 - 1 / math.hypot(1, 0.1), 1, 2]
    assert [match.distance for match in met] == pytest.approx(wanted, abs=1e-6)
    assert door.vectors.search([1, 0], limit=2) == met[:2]


def test_distances_are_those_of_the_cosine(door: Door) -> None:
    (one,) = cards(door, 1)
    numbers = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3)
    useful = numbers.filter(lambda vector: math.hypot(*vector) > 0.01)

    @given(useful, useful)
    def agree(left: list[float], right: list[float]) -> None:
        door.vectors.store(one, "front", left)
        (match,) = door.vectors.search(right)
        dot = sum(a * b for a, b in zip(left, right, strict=True))
        wanted = 1 - dot / math.hypot(*left) / math.hypot(*right)
        assert match.distance == pytest.approx(wanted, abs=1e-4)

    agree()


def test_a_search_may_ask_for_one_side(door: Door) -> None:
    one, two = cards(door, 2)
    door.vectors.store(one, "front", [1, 0])
    door.vectors.store(two, "back", [1, 0])
    found = [(m.card_id, m.embedding_type) for m in door.vectors.search([1, 0])]
    assert found == [(one, "front"), (two, "back")]
    backs = door.vectors.search([1, 0], embedding_type="back")
    assert [(m.card_id, m.embedding_type) for m in backs] == [(two, "back")]


def test_similar_cards_are_others_of_the_same_side(door: Door) -> None:
    one, two, three = cards(door, 3)
    for card, vector in ((one, [1, 0]), (two, [0, 1]), (three, [1, 1])):
        door.vectors.store(card, "combined", vector)
    door.vectors.store(two, "front", [1, 0])
    assert [match.card_id for match in door.vectors.similar_to(one)] == [three, two]
    assert [match.card_id for match in door.vectors.similar_to(one, limit=1)] == [three]
    with pytest.raises(NotFound, match=f"Card {one} has no back vector"):
        door.vectors.similar_to(one, embedding_type="back")


@pytest.mark.parametrize(
    "vector",
    [[], [0, 0], [math.nan, 1], [math.inf, 1], [1e39, 1], [1e-60, 0], ["a", 1], [None, 1], 5, "ab"],
)
def test_what_has_no_direction_is_refused(door: Door, vector: object) -> None:
    (card,) = cards(door, 1)
    for call in (
        lambda: door.vectors.store(card, "front", vector),  # type: ignore[arg-type]
        lambda: door.vectors.search(vector),  # type: ignore[arg-type]
    ):
        with pytest.raises(Refused, match="The vector"):
            call()
    assert door.sqlite("SELECT count(*) FROM vector_embeddings") == [(0,)]


def test_vectors_of_another_length_are_refused_until_the_others_are_gone(door: Door) -> None:
    one, two = cards(door, 2)
    door.vectors.store(one, "front", [1, 0])
    before = door.sqlite(BOTH)
    for call in (
        lambda: door.vectors.store(two, "front", [1, 0, 0]),
        lambda: door.vectors.store(one, "back", [1, 0, 0]),
        lambda: door.vectors.search([1, 0, 0]),
    ):
        with pytest.raises(Refused, match="has 3 numbers, but the stored ones have 2"):
            call()
    assert door.sqlite(BOTH) == before
    door.vectors.store(one, "front", [1, 0, 0])
    assert door.vectors.get(one, "front").vector == (1, 0, 0)


def test_sides_limits_and_cards_that_are_not_there_are_refused(door: Door) -> None:
    (card,) = cards(door, 1)
    door.vectors.store(card, "front", [1, 0])
    for call in (
        lambda: door.vectors.store(card, "top", [1, 0]),
        lambda: door.vectors.search([1, 0], embedding_type="top"),
        lambda: door.vectors.get(card, "top"),
        lambda: door.vectors.delete(card, "top"),
    ):
        with pytest.raises(Refused, match=r"type 'top'. Use one of front, back, combined"):
            call()
    for limit in (0, 501):
        with pytest.raises(Refused, match="Use 1 to 500"):
            door.vectors.search([1, 0], limit=limit)
    with pytest.raises(NotFound, match="anki_cards has no row 99"):
        door.vectors.store(99, "front", [1, 0])


def test_deleting_a_vector_takes_it_from_both_tables(door: Door) -> None:
    (card,) = cards(door, 1)
    door.vectors.store(card, "front", [1, 0])
    door.vectors.store(card, "back", [0, 1])
    door.vectors.delete(card, "front")
    assert [row[1] for row in door.sqlite(BOTH)] == ["back"]
    assert door.sqlite("SELECT embedding_type FROM vector_search") == [("back",)]
    with pytest.raises(NotFound, match=f"Card {card} has no front vector"):
        door.vectors.delete(card, "front")


def test_what_is_searched_is_made_anew_of_what_is_kept(door: Door) -> None:
    one, two, three = cards(door, 3)
    texts = ("[1, 0]", "[0, 1]", "nonsense", None, "[1, NaN]", "[1]", "[0, 0]", '"12"', "[1, 1]")
    owners = (one, one, one, one, one, two, three, three, 99)
    sides = ("front", "front", "back", "combined", "x", "front", "front", "back", "front")
    for card, side, text in zip(owners, sides, texts, strict=True):
        door.sqlite(
            "INSERT INTO vector_embeddings (card_id, embedding_type, vector_data,"
            " vector_dimension) VALUES (:card, :side, :text, 2)",
            card=card,
            side=side,
            text=text,
        )
    with pytest.raises(Refused, match=r"table vector_search is missing. Call rebuild\(\) once"):
        door.vectors.search([1, 0])
    done = Rebuilt(filled=1, unreadable=(3, 4, 5, 6, 7, 8))
    assert door.vectors.rebuild() == done
    assert door.vectors.rebuild() == done
    query = "SELECT card_id, embedding_type, vector FROM vector_search"
    assert door.sqlite(query) == [(one, "front", blob(0, 1))]
    for side, problem in (("back", "not a JSON array"), ("combined", "not a JSON array")):
        with pytest.raises(Unreadable, match=rf"vector_embeddings \d: vector_data is {problem}"):
            door.vectors.get(one, side)
    with pytest.raises(Unreadable, match="has 1 numbers instead of 2"):
        door.vectors.get(two, "front")


def test_what_earlier_versions_left_does_not_disturb_a_search(door: Door) -> None:
    one, two = cards(door, 2)
    door.vectors.store(one, "front", [1, 0])
    for left in (b"", b"abc", blob(0, 0), blob(1, 2, 3)):
        door.sqlite(
            "INSERT INTO vector_search (card_id, embedding_type, vector)"
            " VALUES (:card, 'back', :v)",
            card=two,
            v=left,
        )
    assert [match.card_id for match in door.vectors.search([1, 0])] == [one]


def test_a_long_vector_is_found_again(door: Door) -> None:
    one, two = cards(door, 2)
    vector = [math.sin(n) for n in range(384)]
    door.vectors.store(one, "combined", vector)
    door.vectors.store(two, "combined", [-number for number in vector])
    assert json.loads(door.sqlite(BOTH)[0][2]) == vector
    assert [match.card_id for match in door.vectors.search(vector)] == [one, two]
