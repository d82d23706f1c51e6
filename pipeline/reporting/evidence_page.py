"""The page of a run's evidence: how bars, sizes, times and values are shown to people."""

import functools
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe

from pipeline.core.printable import printable

_ROOM = 400
_LEAD = 40
_AM = "\u0e33\u0eb3"


@dataclass(frozen=True)
class Piece:
    """A piece of a bar; where it begins and how wide it is, in percent of the bar."""

    name: str
    value: float
    begin: float
    width: float


def render(run: object) -> str:
    """The evidence of a run as an HTML page that needs nothing from outside."""
    return _environment().get_template("evidence.html.j2").render(run=run)


def pieces(values: Mapping[str, float]) -> list[Piece]:
    """A bar of values that are not zero, to scale; the widths add up to all of it."""
    whole, begin, found = sum(values.values()), 0.0, []
    for name, value in values.items():
        if value:
            found.append(Piece(name, value, 100 * begin / whole, 100 * value / whole))
            begin += value
    return found


def share(part: float, whole: float) -> str:
    """Percent; nothing but nothing is 0 %, and nothing but everything is 100 %."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.01:
        return "under 0.01 %"
    return "over 99.99 %" if percent > 99.99 else f"{percent:.2f} %"


def size(count: int) -> str:
    """Bytes in the unit in which people read them."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    at = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    number = f"{count / 1024**at:,.1f}".removesuffix(".0")
    return f"{number} {units[at]}"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 0.001:
        return "under 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any, other: Any = None) -> Iterator[tuple[str, str]]:
    """A value in pieces, cut where it is long, with everything in it that nobody could see.

    Args:
        value: what is shown.
        other: a text that it should equal; the part that is not the same is pointed out.

    Yields:
        The kind of a piece (text, differs, unseen, cut, nothing), and its text.
    """
    if value is None or value == "":
        yield "nothing", "NULL" if value is None else "empty text"
        return
    text = str(value)
    begin, end = _unequal(text, other) if isinstance(other, str) else (len(text), len(text))
    first = max(0, min(begin - _LEAD, len(text) - _ROOM))
    last = first + _ROOM
    if first:
        yield "cut", f"{first:,} characters before"
    for kind, run in (
        ("text", text[first : min(begin, last)]),
        ("differs", text[begin : min(end, last)]),
        ("text", text[end:last]),
    ):
        yield from _seen(kind, run)
    if last < len(text):
        yield "cut", f"{len(text) - last:,} characters more"


def _unequal(text: str, other: str) -> tuple[int, int]:
    """Where the part of a text that another one has not begins and ends; letters stay whole."""
    begin = _alike(text, other)
    end = len(text) - _alike(text[begin:][::-1], other[begin:][::-1])
    while begin and (_joins(text, begin) or _joins(other, begin)):
        begin -= 1
    while _joins(text, end):
        end += 1
    return begin, end


def _alike(text: str, other: str) -> int:
    """How many letters at the beginning are the same."""
    lengths = range(1, min(len(text), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: text[:length] != other[:length])


def _joins(text: str, at: int) -> bool:
    """Whether a sign, such as a vowel above its consonant, is drawn onto the letter before it."""
    return at < len(text) and (unicodedata.category(text[at])[0] == "M" or text[at] in _AM)


def _seen(kind: str, text: str) -> Iterator[tuple[str, str]]:
    run = ""
    for letter in text:
        if unicodedata.category(letter)[0] in "CZ" and letter != " ":
            if run:
                yield kind, run
            yield "unseen", "line end" if letter == "\n" else f"U+{ord(letter):04X}"
            run = letter if letter == "\n" else ""
        else:
            run += letter
    if run:
        yield kind, run


def between(power: int) -> str:
    """The sizes that a power of two stands for."""
    return f"{size(2**power)} to {size(2 ** (power + 1))}" if power else "under 2 B"


def _spelled_out(value: object) -> object:
    """Names and sentences without what nobody could see; markup has been through here before."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"share": share, "size": size, "duration": duration, "shown": shown}
    made.globals["pieces"] = pieces
    return made
