"""Every example, run as its reader would, trains and leaves finished runs; of DDP also with a rank that is killed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from box import FAILED, FINISHED, KILLED, SHARED_MEMORY, Box, until
from conformance.integrations.compare import carried, runs_of, said_of, the_run

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

EXAMPLES = Path(__file__).parents[3] / "sdk/examples"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


# The example, its arguments, its experiment, and for its first run by name that has it: a metric and how many points.
RUNS = [
    pytest.param(["pytorch_mnist_like.py", "--epochs", "1"], "PyTorch digits", "loss", 45, marks=needs("torch")),
    pytest.param(["lightning_digits.py", "--epochs", "2"], "Lightning digits", "loss", 90, marks=needs("lightning")),
    pytest.param(
        ["huggingface_trainer.py", "--steps", "20"], "Hugging Face", "loss", 20, marks=needs("transformers", "torch")
    ),
    pytest.param(["keras_digits.py", "--epochs", "2"], "Keras digits", "batch/loss", 48, marks=needs("keras", "torch")),
    pytest.param(["sklearn_search.py"], "scikit-learn search", "split_test_score", 3),
    pytest.param(["optuna_study.py", "--trials", "3"], "Optuna digits", "val_accuracy", 20, marks=needs("optuna")),
]


@pytest.mark.parametrize(("command", "experiment", "key", "count"), RUNS)
def test_an_example_runs_as_it_says(box: Box, command: list[str], experiment: str, key: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / command[0], *command[1:]],
        env=box.environment,
        cwd=box.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    runs = runs_of(box.store, experiment)
    assert {run.status for run in runs} == {FINISHED}
    assert next(found for run in runs if (found := len(run.points(key)))) == count


TORCHRUN = """
import runpy, sys
sys.argv[1:1] = ["--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--nproc-per-node", "2"]
runpy.run_module("torch.distributed.run", run_name="__main__")
"""


@needs("torch")
def test_every_rank_logs_to_one_run_which_ends_with_the_last(box: Box) -> None:
    done = box.run(TORCHRUN, EXAMPLES / "pytorch_ddp.py", "--epochs", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    run = the_run(box.store, "PyTorch DDP")
    assert run.status == FINISHED
    metrics = said_of(run)["metrics"]
    steps = [step for step, _ in metrics["rank0/loss"]]
    assert len(steps) == 58 and steps == [step for step, _ in metrics["rank1/loss"]]
    assert metrics["rank0/loss"] != metrics["rank1/loss"]
    assert run.texts("params")["world_size"] == "2"
    assert run.artifacts().keys() == {"checkpoints/epoch-000.pt", "checkpoints/epoch-001.pt"}
    run.check_account()


@needs("torch")
def test_the_run_of_a_rank_that_is_killed_does_not_finish(box: Box) -> None:
    torchrun = box.start(TORCHRUN, EXAMPLES / "pytorch_ddp.py", "--epochs", "100000", TRAINSPOOL_RUN_NAME="killed")

    def killed_run_has_points() -> bool:
        return any(r.meta["run_name"] == "killed" and r.points("rank1/loss") for r in runs_of(box.store, "PyTorch DDP"))

    until(killed_run_has_points, "rank 1 has logged")
    ranks = psutil.Process(torchrun.pid).children()
    (second,) = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
    second.kill()
    assert torchrun.wait(60) != 0
    (run,) = [run for run in runs_of(box.store, "PyTorch DDP") if run.meta["run_name"] == "killed"]
    until(lambda: run.status in (FAILED, KILLED), "the run is marked")
    carried(box)
    assert run.status in (FAILED, KILLED)
    run.check_account()
