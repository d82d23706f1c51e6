"""Render the evidence of a run as a page: bars, sizes, times and values for people."""

import functools
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe

from pipeline.core.quoting import printable, share, size

_SHOWN_CHARACTERS = 400
_CONTEXT_CHARACTERS = 40
_AM_VOWELS = "\u0e33\u0eb3"


@dataclass(frozen=True)
class Piece:
    """A piece of a bar; start and width are percentages of the bar."""

    name: str
    value: float
    begin: float
    width: float


def render(run: object, *, template: str = "evidence.html.j2") -> str:
    """The evidence of a run, or of a copy, as a self-contained HTML page."""
    return _environment().get_template(template).render(run=run)


def pieces(values: Mapping[str, float]) -> list[Piece]:
    """Divide a bar by the values that are not zero; the widths add up to 100 %."""
    total, begin, found = sum(values.values()), 0.0, []
    for name, value in values.items():
        if value:
            found.append(Piece(name, value, 100 * begin / total, 100 * value / total))
            begin += value
    return found


def duration(seconds: float) -> str:
    """A duration in a suitable unit."""
    if seconds < 0.001:
        return "under 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any, other: Any = None) -> Iterator[tuple[str, str]]:
    """A value in pieces; long values are shortened, and invisible characters are spelled out.

    Args:
        value: the value to show.
        other: a text that should equal it; the differing part is marked.

    Yields:
        The kind of a piece (text, differs, unseen, cut, nothing) and its text.
    """
    if value is None or value == "":
        yield "nothing", "NULL" if value is None else "empty text"
        return
    text = str(value)
    begin, end = _difference(text, other) if isinstance(other, str) else (len(text), len(text))
    first = max(0, min(begin - _CONTEXT_CHARACTERS, len(text) - _SHOWN_CHARACTERS))
    last = first + _SHOWN_CHARACTERS
    if first:
        yield "cut", f"{first:,} characters before"
    for kind, run in (
        ("text", text[first : min(begin, last)]),
        ("differs", text[begin : min(end, last)]),
        ("text", text[end:last]),
    ):
        yield from _spell_out_invisible(kind, run)
    if last < len(text):
        yield "cut", f"{len(text) - last:,} characters more"


def _difference(text: str, other: str) -> tuple[int, int]:
    """Start and end of the part of a text that differs; combined characters are not split."""
    begin = _common_prefix(text, other)
    end = len(text) - _common_prefix(text[begin:][::-1], other[begin:][::-1])
    while begin and (_combines(text, begin) or _combines(other, begin)):
        begin -= 1
    while _combines(text, end):
        end += 1
    return begin, end


def _common_prefix(text: str, other: str) -> int:
    """Length of the common prefix."""
    lengths = range(1, min(len(text), len(other)) + 1)
    return bisect_left(lengths, True, key=lambda length: text[:length] != other[:length])


def _combines(text: str, index: int) -> bool:
    """Whether a character combines with the one before it, such as a vowel above a consonant."""
    return index < len(text) and (
        unicodedata.category(text[index])[0] == "M" or text[index] in _AM_VOWELS
    )


def _spell_out_invisible(kind: str, text: str) -> Iterator[tuple[str, str]]:
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
    """The range of sizes from a power of two to the next."""
    return f"{size(2**power)} to {size(2 ** (power + 1))}" if power else "under 2 B"


def _finalize(value: object) -> object:
    """Spell out invisible characters in text; markup has already been processed."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "size": size, "duration": duration, "shown": shown}
    environment.globals["pieces"] = pieces
    return environment
