"""Contents: written, read, listed by filters that indexes answer."""

import pytest
from pydantic import ValidationError

from pipeline.application.models import LearningContentCreate, LearningContentUpdate


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"title": "ก" * 201}, "at most 200"),
        ({"content_type": "x" * 51}, "at most 50"),
        ({"language": "x" * 11}, "at most 10"),
        ({"difficulty_level": 2**31}, "less than"),
        ({"difficulty_level": True}, "valid integer"),
        ({"title": None}, "valid string"),
        ({"language": None}, "language cannot be None; leave it out"),
        ({"tags": "food"}, "valid tuple"),
        ({"content_metadata": {"a": float("nan")}}, "nan, which JSON cannot represent"),
        ({"tittle": "x"}, "Extra inputs"),
    ],
)
def test_what_the_table_does_not_take_is_refused_before_it_is_sent(
    values: dict[str, object], reason: str
) -> None:
    sound = {"title": "t", "content_type": "c", "native_text": "n", "translation": "", "ipa": ""}
    with pytest.raises(ValidationError, match=reason):
        LearningContentCreate(**{**sound, **values})


def test_none_for_a_column_that_must_have_a_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="title cannot be None; leave it out instead"):
        LearningContentUpdate(title=None)


def test_json_that_is_nested_too_deep_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="nested deeper than 100"):
        LearningContentUpdate(content_metadata=deep)
