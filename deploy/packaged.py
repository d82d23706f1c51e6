"""The build backend: setuptools, in a copy of the project.

So a build leaves nothing in the project's folder. The wheel also has the files beside the package
that the program needs, in ``pipeline/project_files``.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

BESIDE = (".env.example", "dagster.yaml", "workspace.yaml", "deploy")
"""What the program needs of the files beside the package."""
_BUILT = ("pyproject.toml", "README.md", "MANIFEST.in", "pipeline", *BESIDE)
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[co]", "project_files")


def build_wheel(wheel_directory: str, *given: Any, **named: Any) -> str:
    """Build a wheel, and return its name."""
    with _copied(with_files=True):
        return build_meta.build_wheel(wheel_directory, *given, **named)


def build_sdist(sdist_directory: str, *given: Any, **named: Any) -> str:
    """Build a source distribution, and return its name."""
    with _copied():
        return build_meta.build_sdist(sdist_directory, *given, **named)


def prepare_metadata_for_build_wheel(metadata_directory: str, *given: Any, **named: Any) -> str:
    """Write the metadata of the wheel, and return the name of its folder."""
    with _copied():
        return build_meta.prepare_metadata_for_build_wheel(metadata_directory, *given, **named)


@contextmanager
def _copied(*, with_files: bool = False) -> Iterator[None]:
    """Work in a copy of the project."""
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy(project, copy, _BUILT)
        if with_files:
            _copy(project, copy / "pipeline" / "project_files", BESIDE)
        os.chdir(copy)
        try:
            yield
        finally:
            os.chdir(project)


def _copy(project: Path, folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        if (project / name).is_dir():
            shutil.copytree(project / name, folder / name, ignore=_LEFT_OUT)
        elif (project / name).exists():
            shutil.copy2(project / name, folder / name)
