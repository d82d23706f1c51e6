"""Errors of backups and restores."""

from pipeline.core.errors import PipelineError


class BackupError(PipelineError):
    """A backup cannot be created or is damaged."""


class RestoreRefused(BackupError):
    """The backup is intact, but restoring it now would lose or mix up data."""
