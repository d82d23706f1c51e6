"""The PostgreSQL server that runs inside the project folder."""
