"""Fragments and their ratings."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.application.errors import NotFound, Refused
from pipeline.application.models import FragmentUpdate, RankingCreate, RankingUpdate
from pipeline_tests.support.services import MP3, Door


def rating(score: Any, **values: Any) -> RankingCreate:
    return RankingCreate(rank_score=score, assessed_by="somchai", **values)


def test_a_fragment_is_read_as_it_was_written_and_changed(door: Door) -> None:
    content = door.add_content()
    number = door.add_fragment(content, ipa="กิน", extra="", fragment_metadata={"a": ["ก"]})
    before = door.fragments.get(number)
    assert (before.ipa, before.extra, before.fragment_metadata) == ("กิน", "", {"a": ["ก"]})
    door.fragments.update(number, FragmentUpdate(body_text="🙏", ipa=None))
    after = door.fragments.get(number)
    changed = {"body_text": "🙏", "ipa": None, "updated_at": after.updated_at}
    assert after.model_dump() == {**before.model_dump(), **changed}
    assert after.updated_at is not None and before.updated_at is not None
    assert after.updated_at > before.updated_at
    door.fragments.delete(number)
    with pytest.raises(NotFound, match=f"content_fragments has no row {number}"):
        door.fragments.get(number)


def test_a_fragment_of_no_content_is_refused(door: Door) -> None:
    with pytest.raises(Refused, match=r"learning_content_id.*99.*not present"):
        door.add_fragment(99)


def test_fragments_are_listed_of_a_content_and_of_a_type(door: Door) -> None:
    one, two = door.add_content(), door.add_content()
    tip = door.add_fragment(one)
    example = door.add_fragment(one, fragment_type="real_life_example")
    other = door.add_fragment(two)

    def listed(**which: Any) -> list[int]:
        return [item.id for item in door.fragments.list(**which).items]

    assert listed() == [tip, example, other]
    assert listed(content_id=one) == [tip, example]
    assert listed(fragment_type="usage_tip") == [tip, other]
    assert listed(content_id=one, fragment_type="usage_tip") == [tip]
    assert door.fragments.list(content_id=one, limit=1).total == 2


def test_the_best_rated_come_first_the_unrated_last_and_the_newest_among_equals(door: Door) -> None:
    content = door.add_content()
    old, low, high, undated, sound, same = (door.add_fragment(content) for _ in range(6))
    door.add_fragment(content, fragment_type="real_life_example")
    door.add_fragment(door.add_content())
    for fragment, scores in ((low, (1, 2)), (high, (5, 4)), (sound, ())):
        for score in scores:
            door.rankings.rate_fragment(fragment, rating(score))
    # A rating of its audio is none of the fragment.
    door.rankings.rate_asset(door.assets.store_asset(sound, MP3, "audio"), rating(5))
    door.postgres(
        f"UPDATE content_fragments SET created_at = '2020-01-01' WHERE id IN ({old}, {same})"
    )
    door.postgres(f"UPDATE content_fragments SET created_at = NULL WHERE id = {undated}")
    met = door.fragments.best_rated(content, "usage_tip", limit=5)
    assert [item.id for item in met.items] == [high, low, sound, same, old]
    assert met.total == 6


def test_a_rating_of_a_fragment_names_no_asset_and_one_of_an_asset_both(door: Door) -> None:
    fragment = door.add_fragment(door.add_content())
    asset = door.assets.store_asset(fragment, MP3, "audio")
    one = door.rankings.rate_fragment(fragment, rating(4, assessment_notes="ชัดเจนดี"))
    two = door.rankings.rate_asset(asset, rating("2.5"))
    met = door.rankings.get(one)
    assert (met.fragment_id, met.asset_id, met.rank_score) == (fragment, None, Decimal("4.00"))
    assert (met.assessed_by, met.assessment_notes) == ("somchai", "ชัดเจนดี")
    assert door.rankings.get(two).model_dump(include={"fragment_id", "asset_id"}) == {
        "fragment_id": fragment,
        "asset_id": asset,
    }
    assert [r.id for r in door.rankings.list_of_fragment(fragment).items] == [one]
    assert [r.id for r in door.rankings.list_of_asset(asset).items] == [two]


def test_averages_are_rounded_half_up_and_keep_fragment_and_asset_apart(door: Door) -> None:
    fragment = door.add_fragment(door.add_content())
    asset = door.assets.store_asset(fragment, MP3, "audio")
    assert door.rankings.average_of_fragment(fragment) is None
    assert door.rankings.average_of_asset(asset) is None
    for score in ("1.00", "1.01"):
        door.rankings.rate_fragment(fragment, rating(score))
    door.rankings.rate_asset(asset, rating(5))
    assert door.rankings.average_of_fragment(fragment) == Decimal("1.01")
    assert door.rankings.average_of_asset(asset) == Decimal("5.00")


def test_a_rating_is_changed_and_deleted(door: Door) -> None:
    fragment = door.add_fragment(door.add_content())
    number = door.rankings.rate_fragment(fragment, rating(1, assessment_notes="x"))
    before = door.rankings.get(number)
    door.rankings.update(number, RankingUpdate(rank_score=3.5))
    after = door.rankings.get(number)
    changed = {"rank_score": Decimal("3.50"), "updated_at": after.updated_at}
    assert after.model_dump() == {**before.model_dump(), **changed}
    assert after.updated_at is not None and before.updated_at is not None
    assert after.updated_at > before.updated_at
    door.rankings.delete(number)
    with pytest.raises(NotFound, match=f"rankings has no row {number}"):
        door.rankings.delete(number)


def test_what_is_rated_must_be_there(door: Door) -> None:
    with pytest.raises(Refused, match=r"fragment_id.*77.*not present"):
        door.rankings.rate_fragment(77, rating(1))
    with pytest.raises(NotFound, match="fragment_assets has no row 77"):
        door.rankings.rate_asset(77, rating(1))


@pytest.mark.parametrize("score", [-0.001, 5.001, "nan", float("inf"), True, None, "five", 10**400])
def test_a_score_out_of_bounds_is_refused(score: Any) -> None:
    with pytest.raises(ValidationError, match="rank_score"):
        rating(score)


def test_a_score_is_rounded_as_postgresql_rounds(door: Door) -> None:
    @given(st.floats(0, 5) | st.decimals(0, 5) | st.sampled_from([2.675, 0.005, 4.995, 1e-320]))
    def agree(score: Any) -> None:
        ((theirs,),) = door.postgres(f"SELECT '{score}'::numeric(3,2)")
        assert rating(score).rank_score == theirs

    agree()
