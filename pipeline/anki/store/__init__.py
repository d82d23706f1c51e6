"""Where notes are: a collection's file, or a running Anki."""
