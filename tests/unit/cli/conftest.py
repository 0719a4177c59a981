"""A box of its own for the command line: spool, store, rings and state in temporary folders, no agent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trainspool_agent.cli import main

TIMEOUT_S = 60


class Box:
    """Small verbs: log with the real SDK, call a command, start a process."""

    def __init__(self, folder: Path, rings: Path) -> None:
        self.spool, self.store, self.rings, self.folder = folder / "spool", folder / "store", rings, folder
        self.environment = {
            "TRAINSPOOL_DIR": str(self.spool),
            "TRAINSPOOL_STORE": str(self.store),
            "TRAINSPOOL_RING_DIR": str(rings),
            "TRAINSPOOL_AUTOSTART": "0",
            "TRAINSPOOL_EXIT_WAIT": "0",
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINSPOOL_", "MLFLOW_"))}
        self.all = {**kept, **self.environment}

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, env=self.all, cwd=self.folder, text=True, **options)

    def log(self, program: str) -> str:
        """Run *program*, training code, to its end; return what it printed last."""
        done = self.process(sys.executable, "-c", f"import trainspool as ts\n{program}")
        assert done.returncode == 0, done.stderr
        return (done.stdout.splitlines() or [""])[-1]

    def process(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.all | environment, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def trainspool(self, *arguments: str) -> list[str]:
        """The command line of ``trainspool``, for ``start`` and ``process``."""
        return [sys.executable, "-m", "trainspool_agent", *arguments]

    def call(self, *arguments: str) -> Result:
        """Call a command in this process."""
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.call(*arguments).stdout)

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Call a command that prints JSON lines."""
        return [json.loads(line) for line in self.call(*arguments).stdout.splitlines()]

    def sync(self) -> None:
        done = self.process(*self.trainspool("sync", "--json"))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    rings = Path(tempfile.mkdtemp(prefix="trainspool-test-", dir="/dev/shm"))
    made = Box(tmp_path, rings)
    for name in [name for name in os.environ if name.startswith(("TRAINSPOOL_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    shutil.rmtree(rings)
