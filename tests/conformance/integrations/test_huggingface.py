"""TrainspoolCallback beside transformers' own MLflowCallback, in the same training."""

from __future__ import annotations

import pytest
from box import FAILED, FINISHED, SHARED_MEMORY, Box
from conformance.integrations.compare import carried, runs_of, said_of, the_run

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

TRAINER = """
import os, sys, warnings; warnings.filterwarnings("ignore")
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from trainspool.integrations.huggingface import TrainspoolCallback

class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return {"input_ids": torch.arange(8) + index % 20, "labels": index % 2}

def trainer(*callbacks, report_to="none", **others):
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=8, num_labels=2)
    torch.manual_seed(0)
    arguments = TrainingArguments(**{
        "output_dir": "trained", "report_to": report_to, "max_steps": 12, "logging_steps": 1, "save_steps": 4,
        "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 6, "use_cpu": True, "disable_tqdm": True,
        **others})
    model = BertForSequenceClassification(config)
    return Trainer(model, arguments, train_dataset=Words(), eval_dataset=Words(), callbacks=list(callbacks))
"""

BOTH = """
os.environ |= {"MLFLOW_TRACKING_URI": "file:stock", "MLFLOW_EXPERIMENT_NAME": "hf", "MLFLOW_TAGS": '{"team": "a"}'}
one = trainer(TrainspoolCallback("hf", log_checkpoints=True), report_to="mlflow", run_name="named")
one.train()
one.evaluate(metric_key_prefix="final")
__import__("mlflow").flush_async_logging()  # at its exit MLflow may lose what is in its queue
"""


@pytest.fixture(scope="module")
def both(box: Box) -> Box:
    done = box.run(TRAINER + BOTH)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    return box


def test_params_tags_metrics_and_status_are_those_of_transformers_mlflow_callback(both: Box) -> None:
    ours = said_of(the_run(both.store, "hf"))
    # MLflow's callback has ended its run when evaluate() reports, and begins another one for that.
    later, theirs = sorted(map(said_of, runs_of(both.folder / "stock", "hf")), key=lambda run: run["name"] == "named")
    assert [step for step, _ in ours["metrics"]["loss"]] == list(range(1, 13))
    final = {key: points for key, points in ours["metrics"].items() if key.startswith("final_")}
    assert final and all(step == 12 for points in final.values() for step, _ in points)
    assert final == {key: points for key, points in later["metrics"].items() if key.startswith("final_")}
    for key, points in theirs["metrics"].items():
        assert ours["metrics"][key][: len(points)] == points, key
    assert ours["metrics"].keys() - theirs["metrics"].keys() <= final.keys()
    assert ours["status"] == theirs["status"] == FINISHED
    assert {**ours, "metrics": {}} == {**theirs, "metrics": {}}


def test_every_checkpoint_is_logged_though_the_trainer_keeps_one(both: Box) -> None:
    paths = the_run(both.store, "hf").artifacts()
    assert {path.split("/")[1] for path in paths} == {"checkpoint-4", "checkpoint-8", "checkpoint-12"}
    assert len([path for path in paths if path.endswith("/model.safetensors")]) == 3


FAILS = """
import trainspool as mlflow
class Raises(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise ValueError("of a callback")
for name in ("first", "second"):
    try:
        trainer(TrainspoolCallback("hf failing", name), Raises()).train()
    except ValueError:
        pass
trainer(TrainspoolCallback("hf failing", "third", tags={"team": "b"})).train()
with mlflow.start_run(run_name="fourth"):
    trainer(TrainspoolCallback("elsewhere", "unused"), max_steps=2).train()
    assert mlflow.active_run().info.status == "RUNNING"
trainer(TrainspoolCallback("hf failing", "fifth"), Raises()).train()
"""


def test_a_training_that_raises_has_a_failed_run_and_the_next_one_a_run_of_its_own(box: Box) -> None:
    done = box.run(TRAINER + FAILS, TRAINSPOOL_EXPERIMENT="hf failing")
    assert done.returncode == 1 and "of a callback" in done.stderr
    carried(box)
    runs = {run.meta["run_name"]: run for run in runs_of(box.store, "hf failing")}
    assert {name: run.status for name, run in runs.items()} == {
        "first": FAILED, "second": FAILED, "third": FINISHED, "fourth": FINISHED, "fifth": FAILED,
    }  # fmt: skip
    assert [step for _, _, step in runs["first"].points("loss")] == [1, 2]
    assert runs["third"].texts("tags")["team"] == "b"
    assert runs["fifth"].texts("tags")["trainspool.end_reason"] == "ValueError: of a callback"


EVALUATES = """
one = trainer(TrainspoolCallback("hf evaluates", "baseline", log_checkpoints=True), save_total_limit=1)
one.evaluate()
one.train()
one.evaluate()
# Into the same folder: the trainer removes what it has just saved, as it is not the newest by its number.
again = trainer(TrainspoolCallback("hf evaluates", "shorter", log_checkpoints=True), max_steps=3, save_steps=3)
again.train()
trainer(TrainspoolCallback("hf evaluates", "alone")).evaluate()
assert __import__("trainspool").active_run() is None
"""


def test_evaluations_before_and_after_a_training_are_of_its_run_and_no_checkpoint_ends_it(box: Box) -> None:
    done = box.run(TRAINER + EVALUATES, MLFLOW_TAGS="[no tags")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MLFLOW_TAGS is no JSON object" in done.stderr
    carried(box)
    alone, baseline, shorter = runs_of(box.store, "hf evaluates")
    assert {run.status for run in (alone, baseline, shorter)} == {FINISHED}
    assert [step for _, _, step in baseline.points("eval_loss")] == [0, 6, 12, 12]
    assert [step for _, _, step in alone.points("eval_loss")] == [0]
    assert len(shorter.points("loss")) == 3
