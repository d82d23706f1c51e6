"""What the source holds is shown as data: no terminal, page or log obeys it."""

from pathlib import Path

from pipeline_tests.support.commands import EVIL, obeyed, pipeline, usable
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


def test_a_command_and_its_evidence_show_a_hostile_source_as_data(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    column = 'x\x1b]0;owned\x07"; DROP TABLE rankings; --<script>alert(1)</script>'
    source.run('ALTER TABLE rankings ADD COLUMN "{}" TEXT'.format(column.replace('"', '""')))
    source.add("rankings", {"id": 8, "rank_score": EVIL, "assessed_by": EVIL * 9})
    ran = pipeline("migrate", **usable(source, target_url, tmp_path))
    assert ran.code == 0
    assert not obeyed(ran.out)
    assert not obeyed(ran.err)
    assert r"x\u001b]0;owned" in ran.out
    (page,) = (tmp_path / "home" / "reports").glob("*/evidence.html")
    html = page.read_text()
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert not obeyed(html)
    assert query(target_url, "SELECT count(*) FROM rankings") == [(4,)]
    assert query(target_url, "SELECT count(*) FROM migration.quarantine") == [(1,)]
