"""A second witness sees what the engine cannot see of itself."""

import ast
import struct
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import pipeline.move.witness
from pipeline.migrations.content import metadata
from pipeline.move.reading.prepare import prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.move.witness import second_witness, values
from pipeline.move.witness.parts import KeyRange
from pipeline.move.witness.source import sample
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.sources import SourceFile

RANKINGS = metadata.tables["rankings"]


def test_a_moment_without_a_zone_is_placed_in_the_zone_that_is_set() -> None:
    in_bangkok = values.encoder(sa.DateTime(timezone=True), zone="Asia/Bangkok", unwrap=False)
    in_utc = values.encoder(sa.DateTime(timezone=True), zone="UTC", unwrap=False)
    assert in_bangkok(b"2025-08-06 10:00:00") == in_utc(b"2025-08-06 03:00:00")
    assert in_bangkok(b"2025-08-06 10:00:00Z") == in_utc(b"2025-08-06 10:00:00")


def test_ties_are_rounded_as_a_person_reads_them() -> None:
    encode = values.encoder(sa.Numeric(3, 2), zone="UTC", unwrap=False)
    assert [encode(v) for v in (2.675, -2.675, 0.005, 1e-31, 5)] == [
        b"268",
        b"-268",
        b"1",
        b"0",
        b"500",
    ]
    assert values.shown(sa.Numeric(3, 2), b"-268") == str(Decimal("-2.68"))


def test_minus_zero_is_zero() -> None:
    encode = values.encoder(sa.Double(), zone="UTC", unwrap=False)
    assert encode(-0.0) == encode(0.0) == struct.pack(">d", 0.0)


def test_the_witness_uses_nothing_of_the_engine() -> None:
    folder = Path(pipeline.move.witness.__file__).parent
    own = {"values", "json_texts", "moments", "source", "stored", "parts", "table", "comparison"}
    imported = set()
    for module in own:
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    foreign = [name for name in imported if name.startswith(("pyarrow", "adbc", "pipeline."))]
    # Declared forms are types without code of the engine.
    declared = ("pipeline.declared.forms", "pipeline.declared.kinds")
    own_rooms = ("pipeline.core.quoting", *declared, "pipeline.move.witness")
    assert not [name for name in foreign if not name.startswith(own_rooms)]


def test_the_same_seed_sees_the_same_rows(source: SourceFile, tmp_path: Path) -> None:
    source.add("learning_content")
    source.run(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO rankings (id, rank_score, assessed_by) SELECT i, 3.5, 'x' FROM n"
    )
    opened = SourceView(take_snapshot(source.path, tmp_path / "copy.db", tables=[RANKINGS]))
    prepared = prepare(RANKINGS, opened)
    mapping, survey = prepared.mapping, prepared.survey

    def parts(seed: int) -> list[Any]:
        table = second_witness.witness_table(opened, mapping)
        with opened.sqlite() as connection:
            cuts = [(part.first, part.rows) for part in survey.ranges]
            return [found.part for found in sample(table, connection, cuts=cuts, seed=seed)]

    assert parts(1) == parts(1) != parts(2)
    ends = [(part.after, part.upto) for part in parts(1)]
    assert all(one[1] <= other[0] for one, other in pairwise(ends))


def test_a_whole_table_is_one_open_range(source: SourceFile, tmp_path: Path) -> None:
    source.add_family(contents=2)
    opened = SourceView(take_snapshot(source.path, tmp_path / "copy.db", tables=[RANKINGS]))
    table = second_witness.witness_table(opened, prepare(RANKINGS, opened).mapping)
    with opened.sqlite() as connection:
        (found,) = sample(table, connection, cuts=[], seed=0)
    assert found.part == KeyRange(None, None)
