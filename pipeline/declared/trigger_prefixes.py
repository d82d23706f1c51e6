"""Prefixes of triggers that belong to a state of the target, and not to its tables.

A backup leaves them out; they are created again for the state after the restore.
"""

CAPTURE = "pipeline_notes_"
"""Triggers that capture the application's writes while the target is live."""

FEED = "pipeline_feed_"
"""Triggers that write the feed of changes."""
