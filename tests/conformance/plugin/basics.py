"""Run by MLflow 2's own Python: a script's life through the plugin, and everything read back by the client."""

from __future__ import annotations

import os
import tempfile

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

mlflow.set_experiment("two")
with mlflow.start_run(run_name="named", tags={"a": "b"}) as run:
    run_id = run.info.run_id
    mlflow.log_params({"lr": 0.1})
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_metrics({"a": 1.0, "b": float("nan")}, step=2)
    mlflow.log_text("x", "文本/x.txt")
    with tempfile.TemporaryDirectory() as scratch:
        with open(os.path.join(scratch, "one.txt"), "w", encoding="utf-8") as file:
            file.write("one")
        mlflow.log_artifacts(scratch, "folder")
client = MlflowClient()
client.log_batch(run_id, [Metric("late", 1.0, 1_600_000_000_000, 3)], [Param("p", "v")], [RunTag("t", "u")])
client.log_inputs(run_id, [DatasetInput(Dataset("d", "1", "local", "{}"), [])])
found = mlflow.get_run(run_id)
assert found.info.status == "FINISHED" and found.info.run_name == "named", found.info
assert getattr(found.info, "run_uuid", run_id) == run_id  # MLflow 2
assert found.data.params == {"lr": "0.1", "p": "v"}, found.data.params
assert {key: value for key, value in found.data.metrics.items() if key != "b"} == {"loss": 0.5, "a": 1.0, "late": 1.0}
assert found.data.tags["a"] == "b" and found.data.tags["t"] == "u", found.data.tags
history = client.get_metric_history(run_id, "late")
assert [(one.timestamp, one.step, one.value) for one in history] == [(1_600_000_000_000, 3, 1.0)]
assert sorted(file.path for file in client.list_artifacts(run_id)) == ["folder", "文本"]
assert mlflow.artifacts.load_text(f"runs:/{run_id}/文本/x.txt") == "x"
experiment = client.get_experiment_by_name("two")
assert [one.info.run_id for one in client.search_runs([experiment.experiment_id])] == [run_id]
client.rename_experiment(experiment.experiment_id, "renamed")
assert client.get_experiment(experiment.experiment_id).name == "renamed"
client.delete_run(run_id)
assert client.get_run(run_id).info.lifecycle_stage == "deleted"
client.restore_run(run_id)
assert client.search_runs([experiment.experiment_id])[0].info.lifecycle_stage == "active"
try:
    client.log_param(run_id, "lr", "0.2")
except mlflow.MlflowException as error:
    assert "Changing param values is not allowed" in str(error)
else:
    raise AssertionError("another value of a param was taken")
print("ALL", mlflow.__version__)
