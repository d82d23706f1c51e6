"""What the target remembers of moves: quarantine, watermarks, overrides, keys."""
