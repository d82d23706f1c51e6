"""Errors of the sync with Anki; each message ends with a remedy."""

from pipeline.core.errors import PipelineError


class AnkiError(PipelineError):
    """Anki cannot be read or written; exports confirmed before remain saved."""


class AnkiUnavailable(AnkiError):
    """Anki does not answer, or an answer was lost; the next run detects what was written."""


class Unsupported(AnkiError):
    """The add-on is too old for a request."""


class RenderError(PipelineError):
    """A template cannot be used."""
