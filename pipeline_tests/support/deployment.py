"""What the units of systemd in deploy/ say."""

from pipeline.orchestration.serving.services import HOME, Service

PARTS = [part.value for part in Service]
UNITS = HOME / "systemd"
INSTALLED = "/opt/pipeline/.venv/bin/pipeline"


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, whatever their section."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def started_by(part: str) -> list[str]:
    """The arguments with which systemd starts the command `pipeline` for a part."""
    (command,) = unit("pipeline@.service")["ExecStart"]
    program, *arguments = command.replace("%i", part).split()
    assert program == INSTALLED
    return arguments
