"""Published changes: the feed, the publication, channels and their checks, in the database."""
