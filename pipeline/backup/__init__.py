"""Back up both databases, verify each backup by restoring it, and restore from it."""

from pipeline.backup.manifest import Manifest
from pipeline.backup.store import newest

__all__ = ["Manifest", "newest"]
