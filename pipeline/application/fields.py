"""Types of the services' fields, which validate values before they are sent to a database.

Lengths come from the declared tables. Values that a database cannot store are refused: a NUL
character, half of a surrogate pair, a JSON number that is not finite.
"""

import math
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue
from pydantic.fields import FieldInfo

from pipeline.application.anki_tables import anki_cards
from pipeline.migrations.content import (
    content_fragments,
    fragment_assets,
    learning_content,
    rankings,
)

MAX_PAGE = 500
"""The largest page, in rows."""

_DEEPEST = 100


def _storable(value: Any) -> Any:
    """The value itself, if both databases can store all texts and JSON in it."""
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        below: list[Any] = []
        for part in level:
            if isinstance(part, str):
                _refuse_characters(part)
            elif isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"it contains {part}, which JSON cannot represent")
            elif isinstance(part, dict):
                below += [*part.keys(), *part.values()]
            elif isinstance(part, (list, tuple)):
                below += part
        level, depth = below, depth + 1
    return value


def _refuse_characters(text: str) -> None:
    if "\0" in text:
        raise ValueError("it contains a NUL character, which PostgreSQL cannot store")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("it contains half of a surrogate pair, which is not a character")


def _rounded(score: Decimal) -> Decimal:
    """Round to two decimals, ties away from zero, like PostgreSQL's numeric."""
    return score.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)


def _longest(column: sa.Column[Any]) -> FieldInfo:
    length: int = column.type.length  # type: ignore[attr-defined]
    found: FieldInfo = Field(max_length=length)
    return found


_content, _fragment, _asset = learning_content.c, content_fragments.c, fragment_assets.c

Text = Annotated[str, BeforeValidator(_storable)]
Tags = Annotated[tuple[Text, ...], BeforeValidator(_storable)]
Json = Annotated[dict[str, JsonValue], BeforeValidator(_storable)]
Int4 = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]
Int8 = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Title = Annotated[Text, _longest(_content.title)]
ContentType = Annotated[Text, _longest(_content.content_type)]
Language = Annotated[Text, _longest(_content.language)]
FragmentType = Annotated[Text, _longest(_fragment.fragment_type)]
AssetType = Literal["audio", "image", "video"]
Creator = Annotated[Text, _longest(_asset.created_by)]
Judge = Annotated[Text, _longest(rankings.c.assessed_by)]
Score = Annotated[Decimal, Field(ge=0, le=5), AfterValidator(_rounded)]
Deck = Annotated[Text, _longest(anki_cards.c.deck_name)]
EmbeddingType = Literal["front", "back", "combined"]
