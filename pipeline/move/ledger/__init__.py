"""The ledger of moves in the target: quarantine, watermarks, overrides, conflicts, cascades."""
