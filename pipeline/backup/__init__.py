"""Copies of both databases that are known to be restorable, and the way back from them."""

from pipeline.backup.manifest import Manifest
from pipeline.backup.store import newest

__all__ = ["Manifest", "newest"]
