"""How the tests are laid out: shared modules are no tests, and unit tests start nothing."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]


def imported(text: str) -> set[str]:
    """Every module that a text imports, and every name in it, as if that were a module, too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return found


def of_tests(modules: set[str]) -> set[str]:
    """Those that are modules of tests or something of them."""
    return {
        name
        for name in modules
        if name.startswith("pipeline_tests.")
        and any(part.startswith("test_") for part in name.split("."))
    }


def test_no_module_imports_a_module_of_tests() -> None:
    found = {path.name: of_tests(imported(path.read_text())) for path in FOLDER.rglob("*.py")}
    assert len(found) > 100
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_every_way_to_import_a_module_of_tests_is_seen() -> None:
    for written in (
        "from pipeline_tests.engine.test_plan import moved",
        "from pipeline_tests import commands, test_plan",
        "from pipeline_tests.engine import test_plan as plan",
        "import pipeline_tests.engine.test_plan",
        "def late():\n    from pipeline_tests.engine.test_plan import moved",
    ):
        assert of_tests(imported(written)), written


def test_a_unit_test_cannot_start_a_process() -> None:
    for start in (lambda: subprocess.run([sys.executable, "-V"], check=True), os.fork):
        with pytest.raises(AssertionError, match="a unit test starts a process"):
            start()


@pytest.mark.parametrize("name", ["server", "database", "supabase", "tursodb"])
def test_a_unit_test_cannot_ask_for_a_server(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match="its place is engine/ or process/"):
        request.getfixturevalue(name)
