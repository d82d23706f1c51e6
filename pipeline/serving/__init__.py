"""The processes that run for good: how they start, how they start runs, whether they are well."""
