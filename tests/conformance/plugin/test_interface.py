"""Nothing of MLflow's store interface returns None in silence: on both MLflow versions it works, or says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from box import SHARED_MEMORY, Box

import trainspool

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

HERE = Path(__file__).parent
MLFLOW2 = Path(os.environ.get("TRAINSPOOL_MLFLOW2_PYTHON") or HERE.parents[2] / ".venv-mlflow2/bin/python")
ENTRY_POINTS = """
[mlflow.tracking_store]
trainspool = trainspool.mlflow_plugin:tracking_store
[mlflow.artifact_repository]
trainspool = trainspool.mlflow_plugin:artifact_repository
[mlflow.model_registry_store]
trainspool = trainspool.mlflow_plugin:registry_store
"""
# Calls of which MLflow promises nothing to come back.
SAY_NOTHING = {
    "delete_experiment",
    "delete_run",
    "end_async_logging",
    "flush_async_logging",
    "log_batch",
    "log_inputs",
    "log_metric",
    "log_outputs",
    "log_param",
    "rename_experiment",
    "restore_experiment",
    "restore_run",
    "set_experiment_tag",
    "set_tag",
    "shut_down_async_logging",
}
# They take entities that no name tells of; test_scripts.py calls them as MLflow does.
TAKE_ENTITIES = {"create_assessment", "end_trace", "record_logged_model", "start_trace"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("interface")) as made:
        made.start_agent()
        packages = made.folder / "packages"  # as MLflow 2's environment would have them, had it trainspool
        (packages / "trainspool-0.dist-info").mkdir(parents=True)
        (packages / "trainspool-0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
        (packages / "trainspool-0.dist-info/METADATA").write_text(
            "Metadata-Version: 2.1\nName: trainspool\nVersion: 0\n"
        )
        for module in (trainspool, msgpack):
            folder = Path(module.__file__ or "").parent
            (packages / folder.name).symlink_to(folder)
        yield made


def by(box: Box, python: Path | str, script: str) -> str:
    environment = {
        **box.environment,
        "MLFLOW_TRACKING_URI": f"trainspool:{box.folder}/{Path(python).parents[1].name}/{Path(script).stem}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        **({} if python == sys.executable else {"PYTHONPATH": str(box.folder / "packages")}),
    }
    done = subprocess.run(
        [python, HERE / script], env=environment, cwd=box.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def pythons() -> list[Any]:
    missing = pytest.mark.skipif(not MLFLOW2.exists(), reason="no MLflow 2 here")
    return [pytest.param(sys.executable, id="mlflow3"), pytest.param(MLFLOW2, id="mlflow2", marks=missing)]


@pytest.mark.parametrize("python", pythons())
def test_every_call_of_the_interface_works_or_says_what_to_do(box: Box, python: Path) -> None:
    answer = json.loads(by(box, python, "interface_worker.py"))
    assert len(answer["outcomes"]) > 35, answer["version"]
    for name, outcome in answer["outcomes"].items():
        if outcome == "None":
            assert name in SAY_NOTHING, name
        elif outcome != "works" and outcome.startswith("NotInFileStores"):
            assert "is not supported by trainspool" in outcome and "mlflow migrate-filestore" in outcome
        elif outcome != "works" and name not in TAKE_ENTITIES:
            assert outcome.startswith("MlflowException: ") and outcome.partition(": ")[2], (name, outcome)


@pytest.mark.parametrize("python", pythons())
def test_a_scripts_life_is_read_back(box: Box, python: Path) -> None:
    version = by(box, python, "basics.py").split()[-1]
    assert version.startswith("3." if python == sys.executable else "2.")
