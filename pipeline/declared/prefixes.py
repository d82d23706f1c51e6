"""How the names of triggers begin that belong to a state of the target, and not to its tables.

A backup leaves them out: they are made anew for the state in which the tables are restored.
"""

CAPTURE = "pipeline_notes_"
"""Those that note what the application writes while the target is live."""

FEED = "pipeline_feed_"
"""Those that write the feed of changes."""
