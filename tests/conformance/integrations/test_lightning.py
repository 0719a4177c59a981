"""TrainspoolLogger beside Lightning's own MLFlowLogger, in the same trainings."""

from __future__ import annotations

import pytest
import yaml
from box import FAILED, FINISHED, KILLED, SHARED_MEMORY, Box, until
from conformance.integrations.compare import carried, runs_of, said_of, the_run

pytest.importorskip("lightning")
pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

MODULE = """
import os, sys, warnings; warnings.filterwarnings("ignore")
import lightning as L, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from trainspool.integrations.lightning import TrainspoolLogger

class Linear(L.LightningModule):
    def __init__(self, lr=0.1, optimizer={"name": "sgd", "momentum": 0.9}):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        self.seen(index)
        return loss
    def seen(self, index):
        pass
    def validation_step(self, batch, index):
        self.log("val_loss", self.layer(batch[0]).square().mean())
    def test_step(self, batch, index):
        self.log("test_loss", self.layer(batch[0]).square().mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])

def batches():
    return DataLoader(TensorDataset(torch.arange(64.0).reshape(16, 4) / 64), 4)

def trainer(logger, **others):
    return L.Trainer(**{
        "max_epochs": 3, "accelerator": "cpu", "logger": logger, "log_every_n_steps": 1, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": "lightning", "enable_checkpointing": False, **others})

L.seed_everything(0)
"""

BOTH = """
from lightning.pytorch.loggers import MLFlowLogger
names = dict(run_name="named", tags={"team": "a"}, prefix="of")
for log_model in (False, True, "all"):
    ours = TrainspoolLogger(f"lit {log_model}", log_model=log_model, save_dir="checkpoints", **names)
    theirs = MLFlowLogger(f"lit {log_model}", tracking_uri="file:stock", log_model=log_model, **names)
    model = Linear()
    one = trainer([ours, theirs], enable_checkpointing=True, callbacks=[
        ModelCheckpoint(monitor="val_loss", save_top_k=2, save_last=True, filename="at-{step}")])
    one.fit(model, batches(), batches())
    assert ours.experiment.info.status == "FINISHED"
    one.test(model, batches())
"""


@pytest.fixture(scope="module")
def both(box: Box) -> Box:
    done = box.run(MODULE + BOTH)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    return box


@pytest.mark.parametrize("log_model", [False, True, "all"])
def test_params_tags_metrics_and_status_are_those_of_lightnings_mlflow_logger(both: Box, log_model: object) -> None:
    ours, theirs = (said_of(the_run(root, f"lit {log_model}")) for root in (both.store, both.folder / "stock"))
    assert set(ours["metrics"]) == {"of-train/loss", "of-val_loss", "of-test_loss", "of-epoch"}
    assert len(ours["metrics"]["of-train/loss"]) == 12
    assert ours == theirs


@pytest.mark.parametrize("log_model", [False, True, "all"])
def test_checkpoints_are_logged_under_the_same_paths_and_whole(both: Box, log_model: object) -> None:
    ours, theirs = (the_run(root, f"lit {log_model}").artifacts() for root in (both.store, both.folder / "stock"))
    assert bool(ours) == bool(log_model)
    assert ours.keys() == theirs.keys()
    for path, content in ours.items():
        if path.endswith(".yaml"):
            assert yaml.safe_load(content) == yaml.safe_load(theirs[path])
        else:
            assert content == theirs[path]


FAILS = """
import trainspool as mlflow
class Raises(Linear):
    def seen(self, index):
        mlflow.log_metric("fluent", index)
        if index == 2:
            raise ValueError("of the model")
for name in ("first", "second"):
    try:
        trainer(TrainspoolLogger("failing", name)).fit(Raises(), batches())
    except ValueError:
        pass
mlflow.set_experiment("failing")
with mlflow.start_run(run_name="third"):
    trainer(TrainspoolLogger()).fit(Linear(), batches())
    assert mlflow.active_run().info.status == "RUNNING"
"""


def test_a_training_that_raises_has_a_failed_run_and_one_inside_a_run_leaves_that_open(box: Box) -> None:
    done = box.run(MODULE + FAILS)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    first, second, third = runs_of(box.store, "failing")
    for run in (first, second):
        assert run.status == FAILED
        assert run.texts("tags")["trainspool.end_reason"] == "ValueError: of the model"
        assert [step for _, _, step in run.points("train/loss")] == [0, 1]
        assert len(run.points("fluent")) == 3  # the fluent functions log to the logger's run
    assert third.status == FINISHED and len(third.points("train/loss")) == 12


ENDLESS = """
import mmap
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
class Counts(TrainspoolLogger):
    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        words[0] += "train/loss" in metrics
trainer(Counts("killed"), max_epochs=-1).fit(Linear(), batches())
"""


def test_what_was_logged_is_there_after_kill_9_in_the_middle_of_a_fit(box: Box) -> None:
    witness = box.witness()
    process = box.start(MODULE + ENDLESS, witness.path)
    until(lambda: witness[0] > 100, "100 steps")
    process.kill()
    process.wait()
    logged = witness[0]
    until(lambda: [run.status for run in runs_of(box.store, "killed")] == [KILLED], "the run is marked")
    steps = [step for _, _, step in the_run(box.store, "killed").points("train/loss")]
    assert steps[:logged] == list(range(logged))


SEVERAL = """
import threading
class Odd:
    def __repr__(self):
        raise RuntimeError("of its own")
pair = [TrainspoolLogger("several", "one"), TrainspoolLogger("several", "other")]
trainer(pair).fit(Linear(optimizer={"odd": Odd()}), batches())
threads = [threading.Thread(target=lambda n=n: trainer(TrainspoolLogger("threads", f"{n}")).fit(Linear(n), batches()))
           for n in (0.1, 0.2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_several_loggers_and_trainings_in_threads_have_a_run_each(box: Box) -> None:
    done = box.run(MODULE + SEVERAL)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    for experiment in ("several", "threads"):
        runs = [said_of(run) for run in runs_of(box.store, experiment)]
        assert [(run["status"], len(run["metrics"]["train/loss"])) for run in runs] == [(FINISHED, 12)] * 2
    assert [run["params"]["lr"] for run in runs] == ["0.1", "0.2"]
    assert {run.texts("params")["optimizer/odd"] for run in runs_of(box.store, "several")} == {"<Odd>"}
    assert not any("mlflow.parentRunId" in run.texts("tags") for run in runs_of(box.store, "several"))


PICKLED = """
import copy, pickle
logger = TrainspoolLogger("pickled", prefix="p")
assert logger.version is None and logger.name == "pickled"
run = logger.experiment
again = pickle.loads(pickle.dumps(logger))
assert again.run_id == run.run_id == copy.deepcopy(logger).version
import trainspool
trainspool.end_run()
again.log_metrics({"x": torch.tensor(1.5), "text": "no", "pair": torch.ones(2)}, step=3)
again.log_hyperparams(None)
again.finalize("success")
"""


def test_a_copy_of_the_logger_goes_on_with_its_run(box: Box) -> None:
    done = box.run(MODULE + PICKLED)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    run = the_run(box.store, "pickled")
    assert said_of(run)["metrics"] == {"p-x": [(3, 1.5)]}
    assert run.status == FINISHED


RANKS = """
if __name__ == "__main__":
    logger = TrainspoolLogger("ranks", log_model=True)
    trainer(logger, strategy="ddp", devices=2, enable_checkpointing=True).fit(Linear(), batches())
    logger.experiment.log_text("from every rank", "after.txt")  # of rank 0; the others' experiment does nothing
"""


def test_of_several_ranks_the_first_logs_to_one_run(box: Box) -> None:
    done = box.run(MODULE + RANKS)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    run = the_run(box.store, "ranks")
    assert run.status == FINISHED and [step for _, _, step in run.points("train/loss")] == list(range(6))
    assert {path.rpartition(".")[2] for path in run.artifacts()} == {"ckpt", "txt", "yaml"}
