"""The checks of cards, notes and embeddings: each passes where all is well, and finds a fault."""

import json
import random
import struct

import pytest

from pipeline.anki import checks, embeddings
from pipeline.anki.checks import CARD_CHECKS, CONFIRMED, NOTE_CHECKS
from pipeline.anki.embeddings import EMBEDDING_CHECKS, Observed
from pipeline.anki.findings import (
    CardWithoutContent,
    DimensionDiffers,
    EmbeddingWithoutCard,
    ExportOutdated,
    NotConfirmed,
    NoteEdited,
    NoteMissing,
    NoteUntagged,
    RecordingWrong,
    SearchDiffers,
    SeveralCards,
)
from pipeline.anki.outcomes import Outcome, Report
from pipeline.anki.rendering import Renderer
from pipeline.core.findings import CheckResult, Finding, describe
from pipeline_tests.support.anki_world import SQLITE, World

FIELDS = ("Front", "Back")
NOT_OURS = "it is no recording of a content"


def of_cards(world: World) -> dict[str, CheckResult]:
    """What the checks of the cards say, by name."""
    found = checks.of_cards(world.manager, Renderer(), FIELDS)
    return {each.name: each for each in found}


def of_notes(world: World) -> dict[str, CheckResult]:
    """What the checks of the notes say, by name."""
    with world.strategy.open() as anki:
        return {each.name: each for each in checks.of_notes(world.manager, anki, FIELDS)}


def of_embeddings(world: World) -> dict[str, CheckResult]:
    """What the checks of the embeddings say, by name."""
    return {each.name: each for each in embeddings.check(world.manager)}


def good(name: str, **figures: int) -> CheckResult:
    """A check that found nothing."""
    return CheckResult(name, True, True, (), figures)


def bad(name: str, *findings: Finding, blocking: bool = True, **figures: int) -> CheckResult:
    """A check that found something."""
    return CheckResult(
        name, False, blocking, findings, {**figures, "offenders_in_all": len(findings)}
    )


@pytest.fixture
def followed(world: World) -> World:
    """A world in which everything follows."""
    world.words(1, 2, 3)
    world.sync()
    return world


@pytest.fixture
def cards_only(file_world: World) -> World:
    """A world in which everything follows, for checks that look at no note."""
    file_world.words(1, 2, 3)
    file_world.sync()
    return file_world


# Cards


def test_all_checks_pass_where_everything_follows(followed: World) -> None:
    assert of_cards(followed) == {
        "content_exists": CheckResult(
            "content_exists",
            True,
            False,
            (),
            {"cards": 3, "waiting_in_quarantine": 0, "marked_removed": 0},
        ),
        "one_card": good("one_card", contents=3, without_card=0),
        "export_hash": CheckResult("export_hash", True, False, (), {"compared": 3}),
    }
    assert of_notes(followed) == {
        "note_exists": good("note_exists", cards=3, notes=3),
        "edited": CheckResult("edited", True, False, (), {"compared": 3}),
        "recordings": good("recordings", files=6, compared=6),
    }


def test_the_checks_are_those_that_are_announced(followed: World) -> None:
    named = (tuple(of_cards(followed)), tuple(of_notes(followed)), tuple(of_embeddings(followed)))
    assert named == (CARD_CHECKS, NOTE_CHECKS, EMBEDDING_CHECKS)


def test_empty_databases_have_no_faults(world: World) -> None:
    passed = [*of_cards(world).values(), *of_notes(world).values(), *of_embeddings(world).values()]
    assert [each.name for each in passed if not each.passed] == []


def test_a_card_whose_content_is_gone(cards_only: World) -> None:
    cards_only.remove(1)
    cards_only.card(None)
    cards_only.card(77)
    assert of_cards(cards_only)["content_exists"] == bad(
        "content_exists",
        # Card 4 is of no content, which is no fault.
        CardWithoutContent(1, 1, False),
        CardWithoutContent(5, 77, False),
        cards=5,
        waiting_in_quarantine=0,
        marked_removed=0,
    )


def test_a_card_whose_content_waits_in_quarantine_is_a_warning(cards_only: World) -> None:
    cards_only.remove(1, 3)
    cards_only.wait_in_quarantine(1, 3, 99)
    waits = (CardWithoutContent(1, 1, True), CardWithoutContent(3, 3, True))
    figures = {"cards": 3, "waiting_in_quarantine": 2, "marked_removed": 0}
    expected = bad("content_exists", *waits, blocking=False, **figures)
    assert of_cards(cards_only)["content_exists"] == expected
    cards_only.remove(2)
    assert of_cards(cards_only)["content_exists"] == bad(
        "content_exists", CardWithoutContent(2, 2, False), *waits, **figures
    )


def test_many_offenders_are_counted_and_some_are_named(cards_only: World) -> None:
    for number in range(50, 80):
        cards_only.card(number)
    found = of_cards(cards_only)["content_exists"]
    named = tuple(CardWithoutContent(number - 46, number, False) for number in range(50, 70))
    assert (found.findings, found.blocking) == (named, True)
    assert found.figures == {
        "cards": 33,
        "waiting_in_quarantine": 0,
        "marked_removed": 0,
        "offenders_in_all": 30,
    }


def test_several_cards_of_one_content(cards_only: World) -> None:
    cards_only.card(1)
    cards_only.card(3)
    cards_only.card(3)
    cards_only.card(77)
    cards_only.card(77)
    cards_only.content(4)
    assert of_cards(cards_only)["one_card"] == bad(
        "one_card", SeveralCards(1, (1, 4)), SeveralCards(3, (3, 5, 6)), contents=4, without_card=1
    )


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("UPDATE learning_content SET native_text = 'new' WHERE id = 2", ("Front",)),
        ("UPDATE content_fragments SET body_text = 'new' WHERE id = 22", ("Back",)),
        ("UPDATE fragment_assets SET asset_data = 'new' WHERE id = 200", ("recordings",)),
        ("DELETE FROM fragment_assets WHERE id = 201", ("Back", "recordings")),
    ],
)
def test_a_content_that_is_not_as_exported(
    cards_only: World, sql: str, parts: tuple[str, ...]
) -> None:
    cards_only.run(sql)
    assert of_cards(cards_only)["export_hash"] == bad(
        "export_hash", ExportOutdated(2, 2, parts), blocking=False, compared=3
    )


def test_an_export_of_an_earlier_application_is_outdated_as_a_whole(cards_only: World) -> None:
    cards_only.sql("UPDATE anki_cards SET export_hash = 'abc' WHERE id = 1")
    cards_only.sql("UPDATE anki_cards SET export_hash = NULL WHERE id = 3")
    every = ("Front", "Back", "recordings")
    assert of_cards(cards_only)["export_hash"] == bad(
        "export_hash",
        ExportOutdated(1, 1, every),
        ExportOutdated(3, 3, every),
        blocking=False,
        compared=3,
    )


def test_of_several_cards_the_one_that_follows_is_compared(cards_only: World) -> None:
    cards_only.card(1, 12345)
    expected = CheckResult("export_hash", True, False, (), {"compared": 3})
    assert of_cards(cards_only)["export_hash"] == expected


# Notes


def test_notes_that_are_missing_or_untagged(followed: World) -> None:
    first, second, third = (note.id for note in followed.notes())
    followed.delete(first)
    followed.untag(second, "sync::content::2")
    followed.tag(second, "sync::content::22")
    followed.untag(third, "sync::content::3")
    followed.tag(third, "Sync::Content::3")
    followed.card(None, 42)
    assert of_notes(followed)["note_exists"] == bad(
        "note_exists",
        NoteMissing(1, first),
        NoteUntagged(2, second, "sync::content::2"),
        NoteMissing(4, 42),
        cards=4,
        notes=2,
    )


def test_a_note_that_the_learner_deleted_is_a_warning(followed: World) -> None:
    first, *_ = (note.id for note in followed.notes())
    followed.delete(first)
    assert of_notes(followed)["note_exists"] == bad(
        "note_exists", NoteMissing(1, first), blocking=False, cards=3, notes=2
    )


def test_what_a_learner_edited_is_told_though_nothing_else_changed(followed: World) -> None:
    _, second, third = (note.id for note in followed.notes())
    followed.edit(second, Back="mine")
    followed.edit(third, Front="my own", Back="too")
    assert of_notes(followed)["edited"] == bad(
        "edited",
        NoteEdited(2, second, ("Back",)),
        NoteEdited(3, third, ("Front", "Back")),
        blocking=False,
        compared=3,
    )
    followed.sync(force=True)
    assert of_notes(followed)["edited"].passed


def test_recordings_that_are_missing_or_different(followed: World) -> None:
    first, second, third = (note.id for note in followed.notes())
    with followed.strategy.collection() as collection:
        collection.media.trash_files(["asset_100.mp3"])
    followed.run("UPDATE fragment_assets SET asset_data = 'other' WHERE id = 201")
    followed.edit(third, Front="[sound:own.mp3][sound:a &amp; b.mp3]")
    assert of_notes(followed)["recordings"] == bad(
        "recordings",
        RecordingWrong(first, "asset_100.mp3", "missing"),
        RecordingWrong(second, "asset_201.mp3", "different"),
        RecordingWrong(third, "a & b.mp3", "missing", NOT_OURS),
        RecordingWrong(third, "own.mp3", "missing", NOT_OURS),
        files=7,
        compared=5,
    )


def test_a_recording_of_the_learners_own_is_right_as_it_is(followed: World) -> None:
    with followed.strategy.collection() as collection:
        assert collection.media.write_data("own ไทย.mp3", b"mine") == "own ไทย.mp3"
    followed.edit(followed.note(1).id, Front="[sound:own ไทย.mp3]")
    assert of_notes(followed)["recordings"] == good("recordings", files=6, compared=5)


def test_a_recording_whose_id_is_large_is_compared_too(followed: World) -> None:
    followed.asset(2_000_000_000, 10, b"large id")
    followed.sync()
    followed.run("UPDATE fragment_assets SET asset_data = 'other' WHERE id = 2000000000")
    assert of_notes(followed)["recordings"].findings == (
        RecordingWrong(followed.note(1).id, "asset_2000000000.mp3", "different"),
    )


@pytest.mark.parametrize("name", ["a/b.mp3", "../x.mp3", "", "x" * 300, "https://a.example/b.mp3"])
def test_whatever_a_learner_plays_the_check_looks_at_all(followed: World, name: str) -> None:
    first, second, _ = (note.id for note in followed.notes())
    followed.edit(first, Back=f"[sound:{name}]")
    with followed.strategy.collection() as collection:
        collection.media.trash_files(["asset_200.mp3"])
    assert of_notes(followed)["recordings"].findings == (
        RecordingWrong(second, "asset_200.mp3", "missing"),
        RecordingWrong(first, name, "missing", NOT_OURS),
    )


# What a sync confirmed


def test_what_anki_did_not_take_is_found() -> None:
    report = Report()
    report.add(Outcome(1, "a", "created", ""), Outcome(2, "b", "failed", "why"))
    report.add(Outcome(3, "c", "kept", ""))
    assert checks.confirmed(report, dry_run=False) == bad(
        CONFIRMED, NotConfirmed(2, "why"), written=1
    )


@pytest.mark.parametrize(("dry_run", "figure"), [(False, "written"), (True, "intended")])
def test_what_anki_took_is_counted(world: World, dry_run: bool, figure: str) -> None:
    world.words(1, 2)
    report = world.sync(dry_run=dry_run)
    assert checks.confirmed(report, dry_run=dry_run) == good(CONFIRMED, **{figure: 2})


# Embeddings


@pytest.fixture
def embedded(file_world: World) -> World:
    """A world with three cards, each with two embeddings that can be searched."""
    rng = random.Random(11)
    for number in (1, 2, 3):
        file_world.card(number)
        for kind in ("front", "back"):
            embed(file_world, number, kind, [round(rng.gauss(0, 0.05), 6) for _ in range(8)])
    return file_world


def embed(world: World, card: int, kind: str, vector: list[float]) -> None:
    """Add an embedding, and let it be searched."""
    world.sql(
        "INSERT INTO vector_embeddings (card_id, embedding_type, vector_data, vector_dimension,"
        " created_at) VALUES (?, ?, ?, ?, '2025-08-06 03:07:13.716509')",
        *(card, kind, json.dumps(vector), len(vector)),
    )
    search(world, card, kind, floats(*vector))


def search(world: World, card: int, kind: str, vector: object) -> None:
    """Let a vector be searched."""
    sql = "INSERT INTO vector_search (card_id, embedding_type, vector) VALUES (?, ?, ?)"
    world.sql(sql, card, kind, vector)


def floats(*numbers: float) -> bytes:
    """Numbers as sqlite-vec keeps them."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def test_embeddings_that_agree_pass(embedded: World) -> None:
    assert of_embeddings(embedded) == {
        "embedding_card": good("embedding_card", embeddings=6),
        "embedding_dimension": good("embedding_dimension", embeddings=6),
        "vector_search": good("vector_search", embeddings=6, searchable=6),
    }
    assert embeddings.observe(embedded.manager) == Observed(
        6, 3, {"back": 3, "front": 3}, {"8": 6}, "2025-08-06 03:07:13.716509"
    )


def test_an_embedding_whose_card_is_gone(embedded: World) -> None:
    embedded.sql("DELETE FROM anki_cards WHERE id = 2")
    assert of_embeddings(embedded)["embedding_card"] == bad(
        "embedding_card", EmbeddingWithoutCard(3, 2), EmbeddingWithoutCard(4, 2), embeddings=6
    )


@pytest.mark.parametrize(
    ("vector", "has"),
    [
        ("[1, 2, 3]", 3),
        ("[]", 0),
        ("[1,2,3,4,5,6,7,8,9]", 9),
        ("not json", None),
        ("[1, 2", None),
        ("", None),
        (None, None),
        ("null", None),
        ("8", None),
        ('"[1,2,3,4,5,6,7,8]"', None),
        ('{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8}', None),
        ('[1, 2, 3, 4, 5, 6, 7, "8"]', None),
        ("[1, 2, 3, 4, 5, 6, 7, null]", None),
        ("[1, 2, 3, 4, 5, 6, 7, [8]]", None),
        ("[1, 2, 3, 4, 5, 6, 7, true]", None),
        ("[1, 2, 3, 4, 5, 6, 7, NaN]", None),
        (b"\x00\x01\x02\x03", None),
    ],
)
def test_an_embedding_that_is_not_what_it_says(
    embedded: World, vector: object, has: int | None
) -> None:
    embedded.sql("UPDATE vector_embeddings SET vector_data = ? WHERE id = 2", vector)
    found = of_embeddings(embedded)
    assert found["embedding_dimension"] == bad(
        "embedding_dimension", DimensionDiffers(2, 8, has), embeddings=6
    )
    assert found["vector_search"].findings == (SearchDiffers(1, "back", "different"),)


def test_an_embedding_that_says_another_dimension(embedded: World) -> None:
    embedded.sql("UPDATE vector_embeddings SET vector_dimension = 384 WHERE id = 6")
    found = of_embeddings(embedded)
    assert (found["embedding_dimension"].findings, found["vector_search"].passed) == (
        (DimensionDiffers(6, 384, 8),),
        True,
    )


@pytest.mark.parametrize(
    "vector",
    [
        floats(),
        floats(1, 2, 3),
        floats(*[0.01] * 8),
        floats(*[float("nan")] * 8),
        floats(*[float("inf")] * 8),
        floats(*[0.01] * 9),
        floats(*[0.01] * 8) + b"x",
        "[1, 2, 3, 4, 5, 6, 7, 8]",
        17,
    ],
)
def test_a_vector_that_is_searched_and_is_another_one(embedded: World, vector: object) -> None:
    embedded.sql("UPDATE vector_search SET vector = ? WHERE id = 3", vector)
    assert of_embeddings(embedded)["vector_search"] == bad(
        "vector_search", SearchDiffers(2, "front", "different"), embeddings=6, searchable=6
    )


def test_one_number_that_differs_is_found(embedded: World) -> None:
    (data,) = embedded.sql("SELECT vector FROM vector_search WHERE id = 6")[0]
    numbers = list(struct.unpack("<8f", data))
    numbers[7] += 0.00001
    embedded.sql("UPDATE vector_search SET vector = ? WHERE id = 6", floats(*numbers))
    assert of_embeddings(embedded)["vector_search"].findings == (
        SearchDiffers(3, "back", "different"),
    )


def test_large_numbers_that_were_rounded_to_32_bits_agree(embedded: World) -> None:
    embed(embedded, 3, "combined", [12345.678901, -98765.432109, 0.1])
    assert of_embeddings(embedded)["vector_search"].findings == ()


def test_vectors_that_are_missing_too_many_or_twice(embedded: World) -> None:
    embedded.sql("DELETE FROM vector_search WHERE card_id = 1 AND embedding_type = 'front'")
    search(embedded, 2, "combined", floats(*[1] * 8))
    search(embedded, 9, "front", floats(*[1] * 8))
    embedded.sql(
        "INSERT INTO vector_search (card_id, embedding_type, vector)"
        " SELECT card_id, embedding_type, vector FROM vector_search WHERE id = 6"
    )
    embedded.sql(
        "INSERT INTO vector_embeddings (card_id, embedding_type, vector_data, vector_dimension)"
        " SELECT card_id, embedding_type, vector_data, 8 FROM vector_embeddings WHERE id = 5"
    )
    assert of_embeddings(embedded)["vector_search"] == bad(
        "vector_search",
        SearchDiffers(1, "front", "not searchable"),
        SearchDiffers(2, "combined", "without embedding"),
        SearchDiffers(3, "back", "twice"),
        SearchDiffers(3, "front", "twice"),
        SearchDiffers(9, "front", "without embedding"),
        embeddings=7,
        searchable=8,
    )


def test_a_vector_that_is_null_is_another_one(embedded: World) -> None:
    # The application's own table may have been made without NOT NULL.
    embedded.sql("DROP TABLE vector_search")
    embedded.sql(
        "CREATE TABLE vector_search (id INTEGER PRIMARY KEY, card_id, embedding_type, vector)"
    )
    for number, (card, kind, text) in enumerate(
        embedded.sql("SELECT card_id, embedding_type, vector_data FROM vector_embeddings"), 1
    ):
        search(embedded, card, kind, None if number == 4 else floats(*json.loads(text)))
    assert of_embeddings(embedded)["vector_search"].findings == (
        SearchDiffers(2, "back", "different"),
    )


@pytest.mark.parametrize("vector", ["[1e-310]", "[1e999]", "[1e39]", json.dumps([0.1] * 9000)])
def test_a_vector_that_cannot_be_searched_does_not_hide_the_others(
    embedded: World, vector: str
) -> None:
    dimension = len(json.loads(vector))
    embedded.sql(
        "UPDATE vector_embeddings SET vector_data = ?, vector_dimension = ? WHERE id = 1",
        *(vector, dimension),
    )
    embedded.sql("UPDATE vector_search SET vector = ? WHERE id = 1", floats(*[0.5] * dimension))
    embedded.sql("DELETE FROM vector_search WHERE id = 2")
    assert of_embeddings(embedded)["vector_search"].findings == (
        SearchDiffers(1, "back", "not searchable"),
        SearchDiffers(1, "front", "different"),
    )


def test_where_nothing_is_searched_there_is_nothing_to_agree_with(embedded: World) -> None:
    embedded.sql("DROP TABLE vector_search")
    assert of_embeddings(embedded)["vector_search"] == good(
        "vector_search", embeddings=6, searchable=0
    )


def test_where_the_application_has_made_no_vectors_there_is_nothing_to_check(
    file_world: World,
) -> None:
    file_world.sql("DROP TABLE vector_embeddings")
    assert of_embeddings(file_world) == {
        name: good(name, embeddings=0) for name in EMBEDDING_CHECKS
    }
    assert embeddings.observe(file_world.manager) == Observed(0, 0, {}, {}, None)


def test_the_checks_change_nothing(followed: World) -> None:
    before = followed.everything()
    of_cards(followed)
    of_notes(followed)
    of_embeddings(followed)
    assert followed.everything() == before


def test_the_checks_read_while_somebody_writes(cards_only: World) -> None:
    other = SQLITE.connect(cards_only.sqlite)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert [each.passed for each in of_cards(cards_only).values()] == [True, True, True]
    finally:
        other.close()


# What is said of them


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        (CardWithoutContent(1, 2, False), "card 1: its content 2 is not in PostgreSQL"),
        (CardWithoutContent(1, 2, True), "card 1: its content 2 is in quarantine"),
        (SeveralCards(1, (2, 3)), "content 1: several cards exist: 2, 3"),
        (
            ExportOutdated(1, 2, ("Front", "recordings")),
            "card 1: content 2 has changed since the export (Front, recordings)",
        ),
        (NoteMissing(1, 2), "card 1: note 2 is not in Anki"),
        (NoteUntagged(1, 2, "t"), "card 1: note 2 lacks the tag t"),
        (RecordingWrong(1, "a.mp3", "missing"), "note 1: a.mp3 is missing"),
        (NotConfirmed(1, "why"), "content 1: why"),
        (EmbeddingWithoutCard(1, 2), "embedding 1: its card 2 does not exist"),
        (DimensionDiffers(1, 384, 3), "embedding 1: declares 384 dimensions, but its vector has 3"),
        (
            DimensionDiffers(1, 384, None),
            "embedding 1: declares 384 dimensions, but its vector cannot be read",
        ),
        (
            SearchDiffers(1, "front", "not searchable"),
            "card 1, front: not searchable in vector_search",
        ),
    ],
)
def test_a_finding_is_one_sentence(finding: Finding, said: str) -> None:
    assert describe(finding) == said
