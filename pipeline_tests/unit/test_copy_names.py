"""Names of a copy in the target, in messages and in the ledger."""

import pytest

from pipeline.copy.target.layout import CopiedTable
from pipeline.copy.target.names import LONGEST, Names, of_columns, shortened
from pipeline.sqlite.structure.model import Column, Table


def test_no_two_tables_share_a_label() -> None:
    places = [("public", "a.b"), ("a", "b"), ("public", "b"), ("a.b", "c"), ("a", "b.c")]
    labels = [CopiedTable.label_of(*place) for place in places]
    assert labels == ['"a.b"', "a.b", "b", '"a.b".c', 'a."b.c"']


@pytest.mark.parametrize("name", ["x" * 64, "ส" * 30, "", "a\0b" * 40])
def test_a_name_that_is_too_long_or_empty_becomes_one_that_fits(name: str) -> None:
    made = shortened(name)
    assert 0 < len(made.encode()) <= LONGEST
    assert shortened(made) == made


def test_names_stay_distinct() -> None:
    names = Names()
    long = "x" * 70
    made = [names.of(each) for each in ("a", "a", "a_2", long, long)]
    assert made[:3] == ["a", "a_2", "a_2_2"]
    assert len(set(made)) == len(made)
    table = Table("t", tuple(map(Column, ("ctid", "ctid_", long + "1", long + "2"))))
    columns = of_columns(table)
    assert (columns["ctid"], columns["ctid_"]) == ("ctid_", "ctid__")
    assert len(set(columns.values())) == 4
