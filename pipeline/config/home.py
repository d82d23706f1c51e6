"""The folder of all files of the pipeline, and the paths in it."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pipeline.config.variables import ProjectSettings
from pipeline.core.errors import SettingsError
from pipeline.core.private import PROJECT
from pipeline.migrations.declaration import Migration

_SOCKET_BYTES = 100
"""The longest path of a Unix socket; the exact limit depends on the system."""


class HomeSettings(ProjectSettings):
    """The setting PIPELINE_HOME and the paths that follow from it."""

    pipeline_home: Annotated[Path, AfterValidator(lambda path: PROJECT / path)] = (
        PROJECT / ".pipeline"
    )

    def sample_path(self, migration: Migration) -> Path:
        """The path of a migration's sample source."""
        return self.pipeline_home / migration.sample

    @property
    def sample_collection(self) -> Path:
        """The path of the sample collection."""
        return self.pipeline_home / "anki" / "collection.anki2"

    @property
    def snapshots(self) -> Path:
        """The folder of the runs' private copies of the source."""
        return self.pipeline_home / "snapshots"

    @property
    def reports(self) -> Path:
        """The folder of evidence, with a folder per run."""
        return self.pipeline_home / "reports"

    @property
    def faults(self) -> Path:
        """The folder of tracebacks of program errors."""
        return self.pipeline_home / "faults"

    @property
    def dagster_files(self) -> Path:
        """The folder of the output of Dagster's steps."""
        return self.pipeline_home / "dagster"

    @property
    def code_socket(self) -> Path:
        """The socket of the code server; only users with write permission can connect.

        Raises:
            SettingsError: the path is too long for a socket.
        """
        path = self.pipeline_home / "code.sock"
        if len(os.fsencode(path)) > _SOCKET_BYTES:
            raise SettingsError(
                f"PIPELINE_HOME is too long for the path of a socket ({path})",
                remedy=f"Use a folder whose path has at most {_SOCKET_BYTES - 10} characters",
            )
        return path

    @property
    def server_data(self) -> Path:
        """The embedded server's data folder."""
        return self.pipeline_home / "postgres"
