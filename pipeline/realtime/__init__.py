"""Changes of published tables, told as they happen: the database's side and the subscribers'."""
