"""Frameworks that log by MLflow leave through the plugin what they leave on stock MLflow, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from box import KILLED, SHARED_MEMORY, Box, until
from conformance.plugin import frameworks, sameness
from conformance.plugin.switched import OURS, run, said

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

QUIET = {
    "KERAS_BACKEND": "torch",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("frameworks")) as made:
        made.environment |= QUIET
        made.start_agent()
        yield made


def on_both(box: Box, program: str) -> str:
    """Run a script through the plugin and on stock MLflow; return what the first printed."""
    printed = run(box, program)
    run(box, program, MLFLOW_TRACKING_URI=str(box.folder / "stock"), MLFLOW_ALLOW_FILE_STORE="true")
    until(box.is_quiet, "everything is carried and durable")
    return printed


def the_same(box: Box, experiment: str, count: int, *, but: str = "") -> list[dict[str, Any]]:
    """Check that an experiment's runs are those of stock MLflow, *but* for a part of them; return them."""
    theirs, ours = (sameness.runs_of(root, experiment) for root in (box.folder / "stock", box.store))
    assert len(theirs) == count
    for one in [*theirs, *ours]:
        one.pop(but, None)
    assert ours == theirs
    return ours


@needs("lightning")
def test_autologging_a_lightning_fit(box: Box) -> None:
    on_both(box, frameworks.LIGHTNING_AUTOLOG)
    around, alone = sorted(the_same(box, "lightning autolog", 2), key=lambda one: ("team", "a") not in one["tags"])
    assert len(around["history"]["train_loss_step"]) > 3 and len(alone["models"]) == 1
    assert {path.split("/")[0] for path in alone["artifacts"]} >= {"checkpoints", "model_summary.txt"}
    assert "data/model.pth" in alone["models"][0]["files"]


@needs("lightning")
def test_lightnings_own_mlflow_logger(box: Box) -> None:
    on_both(box, frameworks.LIGHTNING_LOGGER)
    seen = the_same(box, "lightning logger", 3)
    assert sorted(len(one["artifacts"]) for one in seen) == [1, 4, 13]
    assert all(len(one["history"]["p-train_loss_step"]) == 16 for one in seen)


@needs("lightning")
def test_what_lightnings_mlflow_logger_logged_is_there_after_kill_9(box: Box) -> None:
    witness = box.witness()
    process = box.start(frameworks.LIGHTNING_KILLED, witness.path, **OURS)
    until(lambda: witness[0] > 100, "100 steps")
    process.kill()
    process.wait()
    logged = witness[0]

    def killed() -> list[Any]:
        return [one for one in box.stored().values() if one.status == KILLED and one.points("train_loss_step")]

    until(killed, "the run is marked")
    (stored,) = killed()
    assert [step for _, _, step in stored.points("train_loss_step")][:logged] == list(range(logged))


@needs("transformers", "accelerate", "torch")
def test_hugging_faces_mlflow_callback(box: Box) -> None:
    on_both(box, frameworks.HUGGING_FACE)
    seen = the_same(box, "Default", 2)  # evaluate() after train() begins a run of its own, there as here
    assert sorted(len(one["history"].get("loss", [])) for one in seen) == [0, 12]
    assert sorted(len(one["models"]) for one in seen) == [0, 2]  # the checkpoints


@needs("optuna", "optuna_integration")
def test_optunas_mlflow_callback(box: Box) -> None:
    on_both(box, frameworks.OPTUNA)
    assert sum("score" in one["history"] for one in the_same(box, "optuna plain", 4)) == 3
    assert all("inside" in one["history"] for one in the_same(box, "optuna tracked", 4))
    assert sum(one["below"] is not None for one in the_same(box, "optuna nested", 4)) == 3


@needs("ray")
def test_rays_mlflow_callback_and_setup(box: Box) -> None:
    on_both(box, frameworks.RAY)
    assert all(len(one["history"]["loss"]) == 3 for one in the_same(box, "ray", 2))
    # Ray ends its workers without a word to MLflow, whose runs stay RUNNING; ours end with their processes.
    assert all(len(one["history"]["loss"]) == 3 for one in the_same(box, "ray inside", 2, but="status"))
    ended = [one["status"] for one in sameness.runs_of(box.store, "ray inside")]
    assert set(ended) <= {"FINISHED", "KILLED"}, ended


@needs("keras", "torch")
def test_autologging_a_keras_fit(box: Box) -> None:
    on_both(box, frameworks.KERAS_AUTOLOG)
    (seen,) = the_same(box, "keras", 1)
    assert len(seen["history"]["val_loss"]) == 3 and len(seen["models"]) == 1


@needs("torch")
def test_a_pytorch_model_loads_back_and_predicts_the_same(box: Box) -> None:
    told = said(on_both(box, frameworks.MODELS), "DONE")
    the_same(box, "models", 1)
    run(box, frameworks.LOADS, told)
    run(box, frameworks.LOADS, told, MLFLOW_TRACKING_URI=str(box.store), MLFLOW_ALLOW_FILE_STORE="true")
