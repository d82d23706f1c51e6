"""The list of planted faults fits the code and the tests as they are."""

import ast
import functools
from pathlib import Path

from pipeline.config.settings import PROJECT
from pipeline_tests.plant import Copy
from pipeline_tests.planted_faults import FAULTS, PlantedFault


@functools.cache
def defined_in(file: str) -> set[str]:
    """Names of the tests of a file."""
    tree = ast.parse((PROJECT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_fault_changes_one_place_and_leaves_a_program() -> None:
    for fault in FAULTS:
        text = (PROJECT / fault.file).read_text()
        assert text.count(fault.old) == 1, fault.name
        assert fault.old != fault.new, fault.name
        assert ast.dump(ast.parse(fault.planted(text))) != ast.dump(ast.parse(text)), fault.name


def test_every_fault_has_a_name_of_its_own_and_tests_that_exist() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.caught_by, fault.name
        for test in fault.caught_by:
            file, _, name = test.partition("::")
            assert name.startswith("test_"), fault.name
            assert name in defined_in(file), fault.name


def test_a_fault_stands_in_the_copy_for_as_long_as_it_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("LIMIT = 1\n")
    before = path.stat().st_mtime
    fault = PlantedFault("a limit is higher", "module.py", "LIMIT = 1", "LIMIT = 2", ())
    with Copy(tmp_path).planted(fault):
        assert path.read_text() == "LIMIT = 2\n"
        # Otherwise Python would run what it compiled of the sound file.
        assert int(path.stat().st_mtime) != int(before)
    assert path.read_text() == "LIMIT = 1\n"
    assert path.stat().st_mtime == before
