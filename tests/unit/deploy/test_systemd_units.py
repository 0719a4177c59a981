from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
HIDES_RINGS_OR_PROCESSES = {
    "PrivateTmp", "PrivateUsers", "PrivatePIDs", "PrivateDevices", "ProtectHome", "TemporaryFileSystem",
    "InaccessiblePaths", "DynamicUser",
}  # fmt: skip


def settings(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed (apt-get install systemd)")
@pytest.mark.parametrize(("manager", "name"), [("--user", "trainspool.service"), ("--system", "trainspool@.service")])
def test_systemd_finds_nothing_to_say(manager: str, name: str, tmp_path: Path) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}  # absent in CI, and verify asks for them
    command = ["systemd-analyze", manager, "--man=no", "verify", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **runtime})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["trainspool.service", "trainspool@.service"])
def test_the_agent_comes_back_and_is_watched(name: str) -> None:
    unit = settings(name)
    assert unit["Service"]["Type"] == "notify" and int(unit["Service"]["WatchdogSec"]) > 0
    assert unit["Service"]["Restart"] == "always" and unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["ExecStart"].endswith(" trainspool daemon")


@pytest.mark.parametrize("name", ["trainspool.service", "trainspool@.service"])
def test_nothing_hides_the_rings_or_the_training_processes(name: str) -> None:
    service = settings(name)["Service"]
    assert HIDES_RINGS_OR_PROCESSES.isdisjoint(service)
    assert service.get("RemoveIPC", "no") == "no"
