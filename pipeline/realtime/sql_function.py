"""A function of the feed as a value, and the statement that creates it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of the feed.

    Attributes:
        signature: name and argument types, in the format of ``to_regprocedure``.
        head: name and named arguments.
        returns: a type, in PostgreSQL's words.
        body: PostgreSQL's ``prosrc``.
    """

    signature: str
    head: str
    returns: str
    body: str
    language: str = "plpgsql"

    @property
    def ddl(self) -> str:
        """The statement that creates it."""
        stable = " STABLE" if self.language == "sql" else ""
        return (
            f"CREATE OR REPLACE FUNCTION {self.head} RETURNS {self.returns} LANGUAGE"
            f" {self.language}{stable} SECURITY DEFINER SET search_path = '' AS $body${self.body}"
            "$body$"
        )
