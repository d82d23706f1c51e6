"""Golden cases: one small input for each kind of fault met in the field, and the right outcome."""
