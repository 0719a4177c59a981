from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from trainspool_agent.cli import demo as command
from trainspool_agent.demo import model, show, training
from trainspool_agent.typed import typed

SETTING = training.Setting("one", 16, 0.1)


def result(store: Path, points: int = 4) -> training.Result:
    return training.Result(
        "one", "a" * 32, str(store / "7" / ("a" * 32) / "artifacts"), SETTING, 0.9, 0.95, points, 1, 5
    )


def store_with(folder: Path, *lines: bytes) -> Path:
    metrics = folder / "7" / ("a" * 32) / "metrics" / "val"
    metrics.mkdir(parents=True)
    (metrics / "loss").write_bytes(b"".join(lines))
    return folder


def printed(outcome: dict[str, Any]) -> str:
    screen = io.StringIO()
    show.print_result(Console(file=screen, width=80), outcome)
    return screen.getvalue()


def test_the_network_learns_to_read_digits() -> None:
    digits, rng = model.load(), np.random.default_rng(0)
    network = model.Network(32, rng)
    for _ in range(300):
        chosen = rng.integers(0, len(digits.labels), training.BATCH)
        network.step(digits.images[chosen], digits.labels[chosen], 0.2)
    assert network.score(digits.val_images, digits.val_labels)[1] > 0.85


def test_every_step_logs_as_many_points_as_the_table_claims() -> None:
    digits = model.load()
    metrics = training._step(model.Network(8, np.random.default_rng(0)), digits, np.arange(8), 0.1)
    assert len(metrics) == training.METRICS_PER_STEP


def test_points_are_counted_in_the_files_of_the_store(tmp_path: Path) -> None:
    store = store_with(tmp_path, b"1 0.5 0\n", b"2 0.25 1\n", b"3 0.1")  # the last one is not whole yet
    assert show.facts([result(store)], None, True)["runs"][0]["points_in_store"] == 2


def test_a_store_that_lags_is_said_to_lag(tmp_path: Path) -> None:
    outcome = show.facts([result(store_with(tmp_path, b"1 0.5 0\n"))], "/a spool", False)
    text = printed(outcome)
    assert "3 points are in the spool and not in the store yet" in text
    assert "trainspool sync '/a spool'" in text


def test_the_commands_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    store = store_with(tmp_path / "my runs", b"1 0.5 0\n")
    outcome = show.facts([result(store)], None, True)
    ui = f"MLFLOW_ALLOW_FILE_STORE=true {typed('mlflow')} ui --backend-store-uri " + shlex.quote(str(store))
    assert outcome["commands"]["ui"] == ui and shlex.split(ui)[-1] == str(store)
    assert ui in printed(outcome)  # on one line, however narrow the terminal


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NEEDED", {"no_such_module": "scikit-learn"})
    done = CliRunner().invoke(command.demo)
    assert done.exit_code == 1
    assert "needs scikit-learn. Next: pip install 'trainspool[demo]'" in done.output


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user of their own: folders, rings and therefore an agent of their own."""
    rings = tempfile.mkdtemp(prefix="trainspool-test-", dir="/dev/shm")
    own = {"HOME": str(tmp_path), "TRAINSPOOL_RING_DIR": rings, "TRAINSPOOL_DIR": str(tmp_path / "spool")}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRAINSPOOL_", "MLFLOW_", "XDG_"))
    }
    yield {**kept, **own, "TRAINSPOOL_AUTOSTART": "0"}
    shutil.rmtree(rings, ignore_errors=True)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory here")
def test_the_demo_brings_every_point_into_the_store(environment: dict[str, str], tmp_path: Path) -> None:
    agent = subprocess.Popen([sys.executable, "-m", "trainspool_agent", "daemon"], env=environment, cwd=tmp_path)
    try:
        program = [sys.executable, "-c", "from trainspool_agent.cli.demo import demo; demo()"]
        options = ["--runs", "2", "--steps", "40", "--json"]
        done = subprocess.run(
            [*program, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        agent.terminate()
        agent.wait(30)
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    assert outcome["store"] == str(tmp_path / "mlruns") and outcome["store_has_all"] is True
    assert [run["points_in_store"] for run in outcome["runs"]] == [40 * training.METRICS_PER_STEP] * 2
    artifacts = sorted(path.name for path in (tmp_path / "mlruns").rglob("artifacts/*/*"))
    assert artifacts == ["confusion_matrix.png"] * 2 + ["weights.npz"] * 2
