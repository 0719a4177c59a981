"""Settings: argument beats environment beats config file beats default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainspool_agent import settings
from trainspool_agent.settings import BadSetting, load


@pytest.fixture(autouse=True)
def no_system_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", tmp_path / "system.toml")


@pytest.mark.parametrize(
    ("argument", "variable", "field"),
    [
        ("spool", "TRAINSPOOL_DIR", "spool"),
        ("store", "TRAINSPOOL_STORE", "store"),
    ],
)
def test_argument_beats_environment_beats_files_beat_default(
    tmp_path: Path, argument: str, variable: str, field: str
) -> None:
    (tmp_path / "system.toml").write_text(f'{argument} = "/system"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert getattr(load(environment=environment), field) == Path("/system")
    (tmp_path / "trainspool").mkdir()
    (tmp_path / "trainspool" / "config.toml").write_text(f'{argument} = "/user"\n')
    assert getattr(load(environment=environment), field) == Path("/user")
    environment[variable] = "/environment"
    assert getattr(load(environment=environment), field) == Path("/environment")
    assert getattr(load(environment=environment, **{argument: "/argument"}), field) == Path("/argument")  # type: ignore[arg-type]


def test_a_setting_without_meaning_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="TRAINSPOOL_IDLE_EXIT"):
        load(environment={"TRAINSPOOL_IDLE_EXIT": "soon", "XDG_CONFIG_HOME": str(tmp_path)})
    with pytest.raises(BadSetting, match="TRAINSPOOL_LOG_LEVEL"):
        load(environment={"TRAINSPOOL_LOG_LEVEL": "loud", "XDG_CONFIG_HOME": str(tmp_path)})
    (tmp_path / "system.toml").write_text("spool = \n")
    with pytest.raises(BadSetting, match=r"system\.toml"):
        load(environment={"XDG_CONFIG_HOME": str(tmp_path)})


def test_zero_is_a_value(tmp_path: Path) -> None:
    assert load(idle_exit=0.0, environment={"XDG_CONFIG_HOME": str(tmp_path)}).idle_exit_s == 0.0
    assert load(environment={"XDG_CONFIG_HOME": str(tmp_path)}).idle_exit_s is None


def test_the_default_spool_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if not os.path.isdir(f"/var/spool/trainspool/{os.getuid()}"):
        assert settings.default_spool() == tmp_path / "trainspool" / "spool"
