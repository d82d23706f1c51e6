"""What can go wrong with a backup."""

from pipeline.core.errors import PipelineError


class BackupError(PipelineError):
    """A backup cannot be made, or is not what it should be."""


class RestoreRefused(BackupError):
    """A backup is sound, and restoring it now would destroy something or mix things up."""
