"""Contents: written, read, listed by filters that indexes answer."""

import random
import time

import pytest
from pydantic import ValidationError

from pipeline.application.errors import NotFound, Refused, Unreadable
from pipeline.application.models import ContentFilter, LearningContentUpdate
from pipeline_tests.support.services import Door

ODD = "น้ำ 🙏 e\u0301\t'\"\\%_{}"


def test_a_content_is_read_as_it_was_written(door: Door) -> None:
    number = door.add_content(
        title="ก" * 200,
        native_text=ODD,
        translation="",
        ipa="náːm" * 100_000,
        difficulty_level=5,
        tags=["food", ODD],
        content_metadata={ODD: [1, 2.5, None, {"x": True}]},
    )
    met = door.contents.get(number)
    assert (met.title, met.native_text, met.translation) == ("ก" * 200, ODD, "")
    assert (met.ipa, met.difficulty_level) == ("náːm" * 100_000, 5)
    assert met.tags == ("food", ODD)
    assert met.content_metadata == {ODD: [1, 2.5, None, {"x": True}]}
    assert met.language == "thai"
    assert met.created_at == met.updated_at
    assert met.created_at is not None and met.created_at.utcoffset() is not None


def test_what_is_left_out_is_null_and_not_json_null(door: Door) -> None:
    left_out = door.add_content()
    none = door.add_content(tags=None, content_metadata=None)
    query = "SELECT id FROM learning_content WHERE tags IS NULL AND content_metadata IS NULL"
    assert door.postgres(f"{query} ORDER BY id") == [(left_out,), (none,)]


def test_an_update_writes_only_what_is_set_and_when(door: Door) -> None:
    number = door.add_content(tags=["a"], difficulty_level=2)
    before = door.contents.get(number)
    door.contents.update(number, LearningContentUpdate(title="ดื่ม", tags=None))
    after = door.contents.get(number)
    assert before.updated_at is not None and after.updated_at is not None
    assert after.updated_at > before.updated_at
    changed = {"title": "ดื่ม", "tags": None, "updated_at": after.updated_at}
    assert after.model_dump() == {**before.model_dump(), **changed}


def test_an_update_of_nothing_changes_nothing(door: Door) -> None:
    number = door.add_content()
    before = door.contents.get(number)
    door.contents.update(number, LearningContentUpdate())
    assert door.contents.get(number) == before


def test_what_is_not_there_is_named(door: Door) -> None:
    for call in (
        lambda: door.contents.get(5),
        lambda: door.contents.update(5, LearningContentUpdate()),
        lambda: door.contents.update(5, LearningContentUpdate(title="x")),
        lambda: door.contents.delete(5),
        lambda: door.contents.get(10**30),
    ):
        with pytest.raises(NotFound, match=r"learning_content has no row \d+"):
            call()


def test_pages_join_to_the_whole_in_the_order_of_ids(door: Door) -> None:
    numbers = [door.add_content(title=f"{9 - n}") for n in range(5)]
    pages = [door.contents.list(limit=2, offset=at) for at in (0, 2, 4, 6)]
    assert [[item.id for item in page.items] for page in pages] == [
        numbers[:2],
        numbers[2:4],
        numbers[4:],
        [],
    ]
    assert {page.total for page in pages} == {5}
    assert (pages[1].limit, pages[1].offset) == (2, 2)


def test_a_page_out_of_bounds_is_refused(door: Door) -> None:
    for limit, offset in ((0, 0), (501, 0), (-1, 0), (1, -1), (1, 2**63)):
        with pytest.raises(Refused, match="A page cannot"):
            door.contents.list(limit=limit, offset=offset)


def test_the_largest_page_is_five_hundred(door: Door) -> None:
    assert door.contents.list(limit=500).limit == 500


def test_filters_find_what_meets_all_of_them(door: Door) -> None:
    both = door.add_content(tags=["food", "easy"], difficulty_level=1, content_metadata={"a": 1})
    food = door.add_content(tags=["food"], difficulty_level=3, language="lao")
    hard = door.add_content(tags=["hard"], content_type="phrase", content_metadata={"a": 1, "b": 2})
    bare = door.add_content()

    def found(**where: object) -> list[int]:
        return [item.id for item in door.contents.list(ContentFilter(**where)).items]

    assert found() == [both, food, hard, bare]
    assert found(tags_all=["food", "easy"]) == [both]
    assert found(tags_all=["food"]) == [both, food]
    assert found(tags_any=["easy", "hard"]) == [both, hard]
    assert found(tags_any=["fo", "%"]) == []
    assert found(metadata={"a": 1}) == [both, hard]
    assert found(metadata={"a": 1, "b": 2}) == [hard]
    assert found(metadata={"a": "1"}) == []
    assert found(language="lao") == [food]
    assert found(content_type="phrase") == [hard]
    assert found(easiest=1, hardest=2) == [both]
    assert found(easiest=3, hardest=3) == [food]
    assert found(hardest=2, tags_all=["food"], metadata={"a": 1}) == [both]
    assert door.contents.list(ContentFilter(tags_any=["food"]), limit=1).total == 2


def test_a_tag_that_looks_like_a_statement_is_only_a_tag(door: Door) -> None:
    number = door.add_content(tags=["x'); DROP TABLE rankings; --", "{a,b}", "?"])
    door.add_content(tags=["a", "b"])
    for tag in ("x'); DROP TABLE rankings; --", "{a,b}", "?"):
        for where in (ContentFilter(tags_any=[tag]), ContentFilter(tags_all=[tag])):
            assert [item.id for item in door.contents.list(where).items] == [number]
    assert door.postgres("SELECT count(*) FROM rankings") == [(0,)]


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (ContentFilter(tags_all=["t7"]), "idx_learning_content_tags"),
        (ContentFilter(tags_any=["t7", "t8"]), "idx_learning_content_tags"),
        (ContentFilter(metadata={"n": 7}), "idx_learning_content_metadata"),
    ],
)
def test_filters_of_jsonb_are_answered_by_their_index(
    door: Door, where: ContentFilter, index: str
) -> None:
    door.postgres(
        "INSERT INTO learning_content (title, content_type, native_text, translation, ipa, tags,"
        " content_metadata) SELECT 't', 'vocabulary', 'n', 't', 'i',"
        " jsonb_build_array('t' || n), jsonb_build_object('n', n) FROM generate_series(1, 3000) n"
    )
    door.postgres("ANALYZE learning_content")
    count = f"SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = '{index}'"
    assert door.postgres(count) == [(0,)]
    assert door.contents.list(where).total in (1, 2)
    # A connection reports what it read when it ends, a moment later.
    door.databases.close()
    deadline = time.monotonic() + 10
    while door.postgres(count) == [(0,)]:
        assert time.monotonic() < deadline, f"{index} was not used"
        time.sleep(0.05)


def test_tags_that_are_no_list_of_strings_name_their_content(door: Door) -> None:
    number = door.add_content()
    door.postgres("UPDATE learning_content SET tags = '{\"a\": 1}'")
    for call in (lambda: door.contents.get(number), door.contents.list):
        with pytest.raises(Unreadable, match=f"learning_content {number}: tags"):
            call()


def test_json_null_reads_as_none(door: Door) -> None:
    number = door.add_content()
    door.postgres("UPDATE learning_content SET tags = 'null', content_metadata = 'null'")
    met = door.contents.get(number)
    assert (met.tags, met.content_metadata) == (None, None)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_no_row_can_hold_is_refused_wherever_it_stands(door: Door, text: str) -> None:
    for values in (
        {"title": text},
        {"tags": ["fine", text]},
        {"content_metadata": {"a": [{"b": text}]}},
        {"content_metadata": {text: 1}},
    ):
        with pytest.raises(ValidationError, match=r"NUL character|surrogate pair"):
            door.add_content(**values)
        with pytest.raises(ValidationError, match=r"NUL character|surrogate pair"):
            LearningContentUpdate(**values)
    with pytest.raises(Refused):
        door.fragments.list(fragment_type=text)
    assert door.contents.list().total == 0


@pytest.mark.parametrize("length", [4_000, 20_000])
def test_a_text_that_is_too_long_for_its_index_is_refused(door: Door, length: int) -> None:
    letters = random.Random(7).choices([chr(n) for n in range(0x0E01, 0x0E2F)], k=length)
    content = door.add_content()
    with pytest.raises(Refused, match=r"rejected the change: index row.* maximum"):
        door.add_fragment(content, native_text="".join(letters))
    assert door.fragments.list().total == 0
