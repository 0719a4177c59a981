"""Scripts as MLflow users write them; where their runs go is the environment's."""

from __future__ import annotations

AUTOLOG = """
import warnings; warnings.filterwarnings("ignore")
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
# Loads the model in a process of its own to see what it imports: half a minute, and nothing of the store.
mlflow.models.infer_pip_requirements = lambda *_, fallback=None, **__: fallback
mlflow.set_experiment("grid")
mlflow.sklearn.autolog()
X, y = load_iris(return_X_y=True)
GridSearchCV(LogisticRegression(max_iter=200, random_state=0), {"C": [0.1, 1.0]}, cv=3).fit(X, y)
with mlflow.start_run(run_name="plain"):
    LogisticRegression(max_iter=200, C=2.0).fit(X, y)
"""

# Prints, after a word, one JSON object: what a reader of the store is to find.
EVERYTHING = """
import json, sys, time, warnings; warnings.filterwarnings("ignore")
import mlflow, numpy, pandas
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
X, y = load_iris(return_X_y=True)
mlflow.set_system_metrics_sampling_interval(0.1)
mlflow.set_system_metrics_samples_before_logging(1)
mlflow.set_experiment("everything")
with mlflow.start_run(log_system_metrics=True) as run:
    run_id = run.info.run_id
    fitted = LogisticRegression(max_iter=500).fit(X, y)
    model = mlflow.sklearn.log_model(fitted, name="iris", pip_requirements=["scikit-learn"])
    mlflow.log_metric("accuracy", 0.5, step=0)
    mlflow.log_metric("async", 1.0, synchronous=False)
    mlflow.log_table({"a": [1, 2]}, "table.json")
    mlflow.log_table({"a": [3]}, "table.json")
    mlflow.log_image(numpy.zeros((4, 4, 3), "uint8"), key="picture", step=2)
    mlflow.log_image(numpy.zeros((4, 4, 3), "uint8"), "picture.png")
    mlflow.log_text("内容", "文本/说明.txt")
    mlflow.log_input(mlflow.data.from_numpy(X, targets=y, name="iris"), context="training")
    with mlflow.start_span("step") as span:
        span.set_inputs({"x": 1})
        span.set_outputs(2)
    begun = time.monotonic()
    while "system/cpu_utilization_percentage" not in mlflow.get_run(run_id).data.metrics:
        assert time.monotonic() - begun < 60, "no system metrics"
mlflow.flush_trace_async_logging()
loaded = mlflow.pyfunc.load_model(model.model_uri)
assert (loaded.predict(X) == fitted.predict(X)).all()
assert mlflow.load_table("table.json", run_ids=[run_id])["a"].tolist() == [1, 2, 3]
assert mlflow.artifacts.load_text(f"runs:/{run_id}/文本/说明.txt") == "内容"
assert mlflow.artifacts.load_text(mlflow.get_run(run_id).info.artifact_uri + "/文本/说明.txt") == "内容"
version = mlflow.register_model(model.model_uri, "iris")
assert (mlflow.pyfunc.load_model("models:/iris/1").predict(X) == fitted.predict(X)).all()
assert mlflow.get_logged_model(model.model_id).metrics[0].value == 0.5
print("DONE", json.dumps({"run": run_id, "model": model.model_uri, "predicted": fitted.predict(X).tolist()}))
"""

# A fresh process: what the other one wrote, by the client alone.
READS = """
import json, sys, warnings; warnings.filterwarnings("ignore")
import mlflow
from sklearn.datasets import load_iris
told = json.loads(sys.argv[1])
run = mlflow.get_run(told["run"])
X, y = load_iris(return_X_y=True)
predicted = mlflow.pyfunc.load_model(told["model"]).predict(X).tolist()
assert predicted == told["predicted"]
traces = mlflow.search_traces(experiment_ids=[run.info.experiment_id], return_type="list")
assert [(span.name, span.inputs, span.outputs) for trace in traces for span in trace.data.spans] == [
    ("step", {"x": 1}, 2)
]
client = mlflow.MlflowClient()
print("READ", json.dumps({
    "status": run.info.status,
    "metrics": sorted(key for key in run.data.metrics if not key.startswith("system/")),
    "system": any(key.startswith("system/") for key in run.data.metrics),
    "datasets": [one.dataset.name for one in run.inputs.dataset_inputs],
    "models": [f"models:/{one.model_id}" for one in run.outputs.model_outputs],
    "artifacts": sorted(file.path for file in client.list_artifacts(told["run"])),
    "images": len(client.list_artifacts(told["run"], "images")),
    "found": mlflow.search_runs(experiment_names=["everything"])["run_id"].tolist(),
}))
"""

# The whole life of a script that is killed, but for its end. Argument: the witness's file; counts what has returned.
KILLED = """
import mmap, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
import mlflow
mlflow.set_experiment("killed")
run = mlflow.start_run()
os.pwrite(fd, run.info.run_id.encode(), 2048)
for step in range(10**9):
    mlflow.log_metric("loss", step + 0.5, step=step)
    words[0] = step + 1
    if step == 20:
        mlflow.log_text("kept", "kept.txt")
        words[1] = 1
"""

FAILS = """
import mlflow
mlflow.set_experiment("fails")
run = mlflow.start_run()
mlflow.log_metric("loss", 1.0)
print("RUN", run.info.run_id, flush=True)
raise RuntimeError("of the script")
"""

FORKS = """
import os, mlflow
mlflow.set_experiment("forks")
with mlflow.start_run() as run:
    mlflow.log_metric("parent", 1.0)
    children = []
    for number in range(3):
        child = os.fork()
        if not child:
            for step in range(100):
                mlflow.log_metric(f"child{number}", step, step=step, run_id=run.info.run_id)
            mlflow.MlflowClient().log_text(run.info.run_id, "from a child", f"child{number}.txt")
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0, 0], statuses
    mlflow.log_metric("parent", 2.0, step=1)
print("RUN", run.info.run_id)
"""

NOBODY_CARRIES = """
import time, mlflow
mlflow.set_experiment("offline")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    mlflow.log_param("lr", 0.1)
    mlflow.log_text("x", "x.txt")
    try:
        mlflow.search_runs()
    except mlflow.MlflowException as error:
        print("SAID", error)
print("RUN", run.info.run_id)
"""

# Two processes on one run. The first ends it when a file appears; both say what they saw.
OWNER = """
import os, sys, time, mlflow
mlflow.set_experiment("shared")
run = mlflow.start_run(run_name="named")
mlflow.log_param("lr", 0.1)
print("RUN", run.info.run_id, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
mlflow.end_run()
"""

GUEST = """
import sys, time, mlflow
run_id, signal = sys.argv[1:]
client = mlflow.MlflowClient()
assert client.get_run(run_id).info.status == "RUNNING"
client.log_metric(run_id, "guest", 1.0)
mlflow.log_metric("guest", 2.0, step=1, run_id=run_id)
client.set_tag(run_id, "seen", "yes")
assert client.get_run(run_id).data.tags["seen"] == "yes"
assert [one.value for one in client.get_metric_history(run_id, "guest")] == [1.0, 2.0]
open(signal, "w").close()
begun = time.monotonic()
while client.get_run(run_id).info.status == "RUNNING":
    assert time.monotonic() - begun < 60, "the other process has ended it"
assert client.get_run(run_id).info.status == "FINISHED"
with mlflow.start_run(run_id=run_id) as run:
    assert run.info.run_name == "named" and client.get_run(run_id).info.status == "RUNNING"
    try:
        mlflow.log_param("lr", 0.2)
    except mlflow.MlflowException as error:
        assert "Changing param values is not allowed" in str(error)
    else:
        raise AssertionError("another value of a param was taken")
    mlflow.log_metric("resumed", 1.0)
client.set_terminated(run_id, "FAILED")
assert client.get_run(run_id).info.status == "FAILED"
client.delete_tag(run_id, "seen")
client.delete_run(run_id)
# Not by this client: what a process knows of a deleted run is looked at again before it is refused.
files = mlflow.MlflowClient(mlflow.get_run(run_id).info.artifact_uri.partition(":")[2].rsplit("/", 3)[0])
try:
    client.log_metric(run_id, "deleted", 1.0)
except mlflow.MlflowException as error:
    assert "must be in the 'active' state" in str(error)
else:
    raise AssertionError("a deleted run took a point")
files.restore_run(run_id)
client.log_metric(run_id, "restored", 1.0)
try:
    client.get_run("0" * 32)
except mlflow.MlflowException as error:
    assert error.error_code == "RESOURCE_DOES_NOT_EXIST"
"""

THREADS = """
import threading, mlflow
client = mlflow.MlflowClient()
mlflow.set_experiment("threads")
experiment_id = client.get_experiment_by_name("threads").experiment_id
runs = [client.create_run(experiment_id).info.run_id for _ in range(8)]
failures = []
def work(number):
    try:
        for step in range(300):
            client.log_metric(runs[number], "own", step, step=step)
            client.log_metric(runs[number - 1], "next", step, step=step)
        client.log_text(runs[number], "text", "text.txt")
        assert client.get_run(runs[number]).data.metrics["own"] == 299
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
for run_id in runs:
    assert all(len(client.get_metric_history(run_id, key)) == 300 for key in ("own", "next"))
    assert [file.path for file in client.list_artifacts(run_id)] == ["text.txt"]
assert {run.info.status for run in client.search_runs([experiment_id])} == {"RUNNING"}
print("RUNS", *runs)
"""
