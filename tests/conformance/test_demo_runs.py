"""`trainspool demo`, small: a real training whose runs MLflow reads whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe

pytest.importorskip("sklearn", reason="the demo trains with scikit-learn: pip install 'trainspool[demo]'")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib: pip install 'trainspool[demo]'")

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

RUNS, STEPS = 2, 50


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, dict[str, Any]]:
    """A user's first command, with no agent there: the demo has one started."""
    with Box(tmp_path_factory.mktemp("demo"), autostart=True) as box:
        command = [
            sys.executable,
            "-m",
            "trainspool_agent",
            "demo",
            "--runs",
            str(RUNS),
            "--steps",
            str(STEPS),
            "--json",
        ]
        done = subprocess.run(
            command, env=box.environment, cwd=box.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        until(box.is_quiet, "everything is carried and durable")
        return box, json.loads(done.stdout)


def test_mlflow_reads_the_demos_runs_and_finds_every_point(demo: tuple[Box, dict[str, Any]]) -> None:
    box, outcome = demo
    seen = recipe.snapshot(box.store)
    assert outcome["store_has_all"] is True
    assert sorted(seen) == sorted(run["run_id"] for run in outcome["runs"])
    for run in outcome["runs"]:
        history = seen[run["run_id"]]["hist"]
        assert seen[run["run_id"]]["info"]["status"] == "FINISHED"
        assert all([step for _, step, _ in points] == list(range(STEPS)) for points in history.values())
        account = box.stored()[run["run_id"]].check_account()
        assert sum(map(len, history.values())) == run["points_logged"] == account["stored"]
        assert (account["folded"], account["dropped"], account["damaged"]) == (0, 0, 0)
    recipe.check_bytes(box.store, seen)
    artifacts = recipe.check_artifacts(box.store, seen)
    assert all(len(artifacts[run_id]) == 2 for run_id in seen)


@pytest.mark.long
def test_mlflow_server_and_migration_agree_on_the_demo(demo: tuple[Box, dict[str, Any]], tmp_path: Path) -> None:
    recipe.check_all(demo[0].store, tmp_path)
