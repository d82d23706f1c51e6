"""A setting that was renamed goes on to work under its old name for one version, with a warning."""

from pathlib import Path

import pytest

from pipeline.config import settings, variables
from pipeline.config.setting_groups import PolicySettings
from pipeline.config.settings import Settings
from pipeline.config.variables import RENAMED, names_of
from pipeline.core.errors import SettingsError
from pipeline.migrations.content import CONTENT

OLD, NEW = "POLICY_DOUBLED_JSON", "POLICY_DOUBLE_ENCODED_JSON"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither name is set, and nothing was warned of yet."""
    monkeypatch.delenv(OLD, raising=False)
    monkeypatch.delenv(NEW, raising=False)
    variables._warn.cache_clear()


def double_encoded() -> str:
    return settings.load().policies(CONTENT).double_encoded_json


def test_an_old_name_works_and_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OLD, "keep")
    assert double_encoded() == double_encoded() == "keep"
    warned = capsys.readouterr()
    assert warned.out == ""
    assert warned.err == (
        f"The setting {OLD} is deprecated and is now called {NEW}. Rename it: the next version"
        " will ignore the old name.\n"
    )


def test_an_old_name_in_lower_case_or_in_the_file_of_settings_works_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(OLD.lower(), "keep")
    assert double_encoded() == "keep"
    monkeypatch.delenv(OLD.lower())
    file = tmp_path / ".env"
    file.write_text(f"{OLD}=keep\n")
    assert PolicySettings(_env_file=file).double_encoded_json == "keep"
    assert capsys.readouterr().err.count(OLD) == 1


def test_the_new_name_wins_and_alone_is_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NEW, "keep")
    assert double_encoded() == "keep"
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(OLD, "unwrap")
    assert double_encoded() == "keep"
    assert OLD in capsys.readouterr().err


def test_an_error_in_the_value_names_the_setting_by_its_new_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OLD, "perhaps")
    with pytest.raises(SettingsError, match=f"^{NEW} cannot be used"):
        settings.load()


def test_every_new_name_is_a_setting_and_no_old_one_is() -> None:
    known = names_of(Settings, *settings._GROUPS)
    assert set(RENAMED.values()) <= known
    assert not RENAMED.keys() & known
