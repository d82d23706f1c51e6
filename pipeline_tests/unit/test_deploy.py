"""What lies in deploy/: every file is read by what will read it, or held against what it must say.

Docker is not needed: of the image and of compose.yaml the essentials are looked at.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.errors import DagsterInvalidConfigError
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths

from pipeline.config import settings
from pipeline.config.settings import CODE_SOCKET, PROJECT
from pipeline.orchestration.serving.health import Component
from pipeline.orchestration.serving.services import HOME, require_login
from pipeline_tests.support.deployment import INSTALLED, PARTS, started_by, unit


@pytest.fixture
def compose() -> dict[str, Any]:
    """What compose.yaml says."""
    found: dict[str, Any] = yaml.safe_load((HOME / "compose.yaml").read_text())
    return found


def test_a_line_that_dagster_does_not_know_would_be_refused(tmp_path: Path) -> None:
    text = (HOME / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text)
    dagster_instance_config(str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(text.replace("start_timeout_sec", "start_timout_sec"))
    with pytest.raises(DagsterInvalidConfigError, match="start_timout_sec"):
        dagster_instance_config(str(tmp_path))


def test_both_instances_keep_runs_and_ticks_in_the_same_way() -> None:
    ours, others = (
        yaml.safe_load((folder / "dagster.yaml").read_text()) for folder in (HOME, PROJECT)
    )
    assert {name: ours[name] for name in others} == others


def test_the_workspace_names_the_socket_of_the_code_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE_SOCKET, "/somewhere/code.sock")
    origins = location_origins_from_yaml_paths([str(HOME / "workspace.yaml")])
    assert [(each.location_name, getattr(each, "socket", None)) for each in origins] == [
        ("pipeline", "/somewhere/code.sock")
    ]


def test_compose_starts_the_same_three_commands_as_systemd(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name: each["command"] for name, each in services.items()} == {
        part: started_by(part) for part in PARTS
    }


@pytest.mark.parametrize("part", PARTS)
def test_a_service_of_compose_is_confined_and_comes_back(
    part: str, compose: dict[str, Any]
) -> None:
    service = compose["services"][part]
    assert (service["restart"], service["stop_grace_period"]) == ("unless-stopped", "300s")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["env_file"] == [{"path": "../.env", "required": True}]
    assert (HOME / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    mounted = {volume.rpartition(":")[2] for volume in service["volumes"]}
    assert mounted == {"/var/lib/pipeline", "/srv/pipeline"}
    assert "state" in compose["volumes"]


def test_compose_opens_one_port_on_the_loopback_address(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {name: each.get("ports", []) for name, each in compose["services"].items()}
    assert ports == {"code": [], "webserver": ["127.0.0.1:3000:3000"], "daemon": []}
    environment = compose["services"]["webserver"]["environment"]
    assert environment["UI_PORT"] == "3000"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    require_login(settings.load())


def test_the_health_of_everything_is_looked_at_by_some_service(compose: dict[str, Any]) -> None:
    looked = [each["healthcheck"]["test"] for each in compose["services"].values()]
    assert {tuple(test[:3]) for test in looked} == {("CMD", "pipeline", "health")}
    assert sorted(word for test in looked for word in test[3:] if word != "--alert") == sorted(
        Component
    )


def test_the_image_runs_as_nobody_special_and_installs_what_is_locked() -> None:
    lines = (HOME / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    words = [step for step, _ in steps]
    assert words[0] == "FROM"
    said = dict(steps)
    assert said["USER"] == "pipeline"
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
    assert said["ENTRYPOINT"] == '["pipeline"]'
    assert any("--require-hashes -r requirements.lock" in rest for _, rest in steps)
    assert f"ENV PATH={INSTALLED.removesuffix('/pipeline')}:$PATH" in lines
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    assert [name for name in copied if not (PROJECT / name).exists()] == []
    allowed = (PROJECT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(allowed)


@pytest.mark.parametrize("name", ["pipeline@.service", "pipeline-health.service"])
def test_a_unit_runs_confined_as_a_user_of_its_own_with_secrets_from_a_file(name: str) -> None:
    said = unit(name)
    assert (said["User"], said["Group"]) == (["pipeline"], ["pipeline"])
    assert said["EnvironmentFile"] == ["/etc/pipeline.env"]
    assert said["StateDirectory"] == ["pipeline"]
    assert "PIPELINE_HOME=/var/lib/pipeline" in said["Environment"][0].split()
    for option in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices"):
        assert said[option] == ["true"]
    assert (said["ProtectSystem"], said["CapabilityBoundingSet"]) == (["strict"], [""])


def test_the_target_starts_the_three_and_the_look_after_their_health() -> None:
    (wanted,) = unit("pipeline.target")["Wants"]
    assert wanted.split() == [f"pipeline@{part}.service" for part in PARTS] + [
        "pipeline-health.timer"
    ]
    assert unit("pipeline@.service")["Restart"] == ["always"]
    (look,) = unit("pipeline-health.service")["ExecStart"]
    assert look == f"{INSTALLED} health --alert"
