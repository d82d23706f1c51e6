"""What keeps Anki from being followed, as types whose text says what and what to do."""

from pipeline.core.errors import PipelineError


class AnkiError(PipelineError):
    """Anki cannot be read or written; what it confirmed before is kept."""


class AnkiGone(AnkiError):
    """Anki does not answer now, or the answer was lost; the next run finds out what was done."""


class RenderError(PipelineError):
    """A template cannot be used."""
