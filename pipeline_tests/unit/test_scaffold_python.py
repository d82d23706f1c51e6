"""What a module of declarations is written with: no text of a source becomes code."""

import ast

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mapping.casts.types import DIALECT
from pipeline.scaffold import python

HOSTILE = st.text(st.sampled_from("'\"\\\n\r\x85\u2028:#a b{}\x00\t😀") | st.characters())


@given(HOSTILE)
def test_a_literal_is_the_text(text: str) -> None:
    assert ast.literal_eval(python.string(text)) == text


@given(HOSTILE)
def test_a_comment_is_nothing_but_a_comment(text: str) -> None:
    written = python.comment(text, indent=4)
    assert all(line.startswith("    #") for line in written.splitlines())
    assert ast.parse(written).body == []


@given(st.text(st.sampled_from("ab:\\'\" 1_")))
def test_sql_arrives_as_it_was(sql: str) -> None:
    written = ast.literal_eval(python.sql_string(sql))
    assert str(sa.text(written).compile(dialect=DIALECT)) == sql
    assert not sa.text(written).compile(dialect=DIALECT).params


@given(HOSTILE)
def test_a_variable_is_a_free_name(name: str) -> None:
    taken = {"table", "a"}
    found = python.variable(name, taken)
    assert found.isidentifier()
    assert found not in ("table", "a", "sa", "metadata")
