"""A content becomes the fields of a note, and a digest of them by which changes are known."""

import hashlib
import html
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup, escape

from pipeline.anki.contents import Content, Fragment, Sound
from pipeline.anki.store.errors import RenderError

TEMPLATES = Path(__file__).parent / "templates"
SIDES = ("front.html", "back.html")
"""Templates of the fields, in their order."""

UNKNOWN = "0" * 32
"""Stands for the digest of a field of which nobody knows what was last exported."""

_DIGEST_BYTES = 16
_S = TypeVar("_S", Content, Fragment)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COMMANDS = re.compile(r"\[(?=(?:sound:|anki:|latex\]|\$))", re.IGNORECASE)
_AS_EDITED = {"&quot;": '"', "&#34;": '"', "&#39;": "'", "&#91;": "["}
_PLAYED = re.compile(r"\[sound:([^\]]*)\]")


def canonical(text: str) -> str:
    """A field as Anki keeps it: composed letters, plain line ends, no control characters."""
    lines = text.replace("\r\n", "\n")
    return unicodedata.normalize("NFC", _CONTROL.sub("", lines))


def digest(text: str) -> str:
    """What tells one field from another, 32 hexadecimal digits.

    Two texts that differ only in what Anki's editor writes in its own way count as one.
    """
    for escaped, letter in _AS_EDITED.items():
        text = text.replace(escaped, letter)
    return hashlib.blake2b(canonical(text).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def played(text: str) -> list[str]:
    """Names of the files that a field plays."""
    return [html.unescape(name) for name in _PLAYED.findall(text)]


@dataclass(frozen=True)
class ExportHash:
    """What was last exported, field by field; kept as text in ``anki_cards.export_hash``.

    Attributes:
        fields: a digest for each field.
        media: one over the recordings.
    """

    fields: tuple[str, ...]
    media: str

    def __str__(self) -> str:
        """Digests joined by hyphens."""
        return "-".join((*self.fields, self.media))

    @classmethod
    def parse(cls, text: str | None, *, fields: int) -> "ExportHash | None":
        """What such a text says; None where it is another one, as earlier applications wrote."""
        parts = (text or "").split("-")
        if len(parts) != fields + 1 or any(len(part) != len(UNKNOWN) for part in parts):
            return None
        return cls(tuple(parts[:-1]), parts[-1])


@dataclass(frozen=True)
class Rendered:
    """A content as a note.

    Attributes:
        content_id: id of the content.
        title: what people call it.
        fields: HTML, in the order of ``SIDES``.
        sounds: the recordings that the fields play.
    """

    content_id: int
    title: str
    fields: tuple[str, ...]
    sounds: tuple[Sound, ...]

    @cached_property
    def hash(self) -> ExportHash:
        """What is exported when all of it is."""
        media = "".join(sorted(f"{sound.file} {sound.md5}\n" for sound in self.sounds))
        return ExportHash(tuple(map(digest, self.fields)), digest(media))


class Renderer:
    """Renders contents with a folder of Jinja2 templates."""

    def __init__(self, folder: Path | None = None) -> None:
        """Load the templates.

        Args:
            folder: holds ``front.html`` and ``back.html``; None for the project's own.

        Raises:
            RenderError: one is missing or not valid.
        """
        self._folder = folder or TEMPLATES
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self._folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_for_anki,
        )
        environment.filters |= {"e": _escaped, "escape": _escaped}
        try:
            self._templates = [environment.get_template(side) for side in SIDES]
        except (jinja2.TemplateError, OSError, UnicodeDecodeError) as error:
            raise self._unusable(error) from error

    def render(self, content: Content) -> Rendered:
        """A content as a note.

        Raises:
            RenderError: a template asks for what there is not.
        """
        shown = {
            "content": _as_text(content),
            "item": content.item and _as_text(content.item),
            "examples": [_as_text(example) for example in content.examples],
        }
        try:
            texts = [canonical(template.render(shown)).strip() for template in self._templates]
        except Exception as error:  # whatever an expression in a template raises
            raise self._unusable(error, content) from error
        names = {name for text in texts for name in played(text)}
        fragments = [content.item, *content.examples]
        sounds = {f.sound for f in fragments if f and f.sound and f.sound.file in names}
        return Rendered(
            content.id,
            content.title,
            tuple(texts),
            tuple(sorted(sounds, key=lambda sound: sound.asset_id)),
        )

    def _unusable(self, error: Exception, content: Content | None = None) -> RenderError:
        name = getattr(error, "name", None) or getattr(error, "filename", None)
        line = getattr(error, "lineno", None)
        where = f"{self._folder}{f', {name}' if name else ''}{f', line {line}' if line else ''}"
        of = f" for content {content.id}" if content else ""
        return RenderError(
            f"The templates in {where} cannot be used{of} ({error or type(error).__name__})",
            remedy="Correct them, or take ANKI_TEMPLATES out to use the project's own",
        )


class _Text(str):
    """Text of a content; whatever escapes it escapes what Anki would take for a command, too."""

    def __html__(self) -> str:
        return _escaped(str(self))


def _as_text(shown: _S) -> _S:
    """The same content or fragment, whose texts cannot become markup or commands."""
    values: dict[str, Any] = {
        name: _Text(value) if isinstance(value, str) else value
        for name, value in vars(shown).items()
    }
    if isinstance(tags := values.get("tags"), list):
        values["tags"] = [_Text(tag) if isinstance(tag, str) else tag for tag in tags]
    return replace(shown, **values)


def _escaped(value: object) -> Markup:
    """Markup that shows a text as it is; what is markup already stays."""
    if hasattr(value, "__html__"):
        return escape(value)
    # What Anki drops must not hide a command from us.
    return Markup(_COMMANDS.sub("&#91;", str(escape(canonical(str(value))))))  # noqa: S704


def _for_anki(value: object) -> object:
    """What an expression of a template is replaced by."""
    return "" if value is None else value if isinstance(value, Markup) else _escaped(value)
