"""Render a content as the fields of a note, with digests that reveal changes."""

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
"""The digest of a field whose last export is unknown."""

_DIGEST_BYTES = 16
_S = TypeVar("_S", Content, Fragment)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COMMANDS = re.compile(r"\[(?=(?:sound:|anki:|latex\]|\$))", re.IGNORECASE)
_AS_EDITED = {"&quot;": '"', "&#34;": '"', "&#39;": "'", "&#91;": "["}
_PLAYED = re.compile(r"\[sound:([^\]]*)\]")


def canonical(text: str) -> str:
    """A field as Anki stores it: composed characters, LF line ends, no control characters."""
    lines = text.replace("\r\n", "\n")
    return unicodedata.normalize("NFC", _CONTROL.sub("", lines))


def digest(text: str) -> str:
    """A digest of a field, 32 hexadecimal digits.

    Entities that Anki's editor replaces by characters do not change the digest.
    """
    for escaped, letter in _AS_EDITED.items():
        text = text.replace(escaped, letter)
    return hashlib.blake2b(canonical(text).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def sound_files(text: str) -> list[str]:
    """Names of a field's sound files."""
    return [html.unescape(name) for name in _PLAYED.findall(text)]


@dataclass(frozen=True)
class ExportHash:
    """Digests of each field and of the recordings, stored in ``anki_cards.export_hash``."""

    fields: tuple[str, ...]
    media: str

    def __str__(self) -> str:
        """Digests joined by hyphens."""
        return "-".join((*self.fields, self.media))

    @classmethod
    def parse(cls, text: str | None, *, fields: int) -> "ExportHash | None":
        """Parse a stored text; None for other formats, which earlier applications wrote."""
        parts = (text or "").split("-")
        if len(parts) != fields + 1 or any(len(part) != len(UNKNOWN) for part in parts):
            return None
        return cls(tuple(parts[:-1]), parts[-1])


@dataclass(frozen=True)
class Rendered:
    """A content as a note; ``fields`` is HTML in the order of ``SIDES``."""

    content_id: int
    title: str
    fields: tuple[str, ...]
    sounds: tuple[Sound, ...]

    @cached_property
    def hash(self) -> ExportHash:
        """The export hash after all fields and recordings are exported."""
        media = "".join(sorted(f"{sound.file} {sound.md5}\n" for sound in self.sounds))
        return ExportHash(tuple(map(digest, self.fields)), digest(media))


class Renderer:
    """Renders contents with a folder of Jinja2 templates."""

    def __init__(self, folder: Path | None = None) -> None:
        """Load the templates.

        Args:
            folder: contains ``front.html`` and ``back.html``; None for the project's own.

        Raises:
            RenderError: a template is missing or invalid.
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
            RenderError: a template uses an undefined name, or fails otherwise.
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
        names = {name for text in texts for name in sound_files(text)}
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
        which = f" for content {content.id}" if content else ""
        return RenderError(
            f"The templates in {where} cannot be used{which} ({error or type(error).__name__})",
            remedy="Correct them, or unset ANKI_TEMPLATES to use the project's own",
        )


class _Text(str):
    """Text of a content; escaping it also escapes commands of Anki."""

    def __html__(self) -> str:
        return _escaped(str(self))


def _as_text(shown: _S) -> _S:
    """The content or fragment with texts that cannot become markup or commands."""
    values: dict[str, Any] = {
        name: _Text(value) if isinstance(value, str) else value
        for name, value in vars(shown).items()
    }
    if isinstance(tags := values.get("tags"), list):
        values["tags"] = [_Text(tag) if isinstance(tag, str) else tag for tag in tags]
    return replace(shown, **values)


def _escaped(value: object) -> Markup:
    """A text as escaped markup; existing markup is unchanged."""
    if hasattr(value, "__html__"):
        return escape(value)
    # Characters that Anki drops could hide a command, so they are removed first.
    return Markup(_COMMANDS.sub("&#91;", str(escape(canonical(str(value))))))  # noqa: S704


def _for_anki(value: object) -> object:
    """The text that replaces an expression in a template."""
    return "" if value is None else value if isinstance(value, Markup) else _escaped(value)
