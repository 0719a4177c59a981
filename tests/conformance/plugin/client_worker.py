"""Plays calls with MLflow's clients on a store, and reads everything back: ``python client_worker.py PREFIX``.

PREFIX stands before each root: empty for MLflow's own file store, ``trainspool:`` for ours. A JSON object a line comes
in: root, calls. One goes out: the outcome of each call, and what can be read afterwards. Runs go by the order in which
they were created, as their ids differ.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType

NUMBERED = ("mlflow.parentRunId",)
NOT_COMPARED = ("mlflow.experimentKind",)  # the agent settles MLflow's guess


class Failed(Exception):
    """What a training loop raises in a ``with`` block."""


class Player:
    """Plays one sequence."""

    def __init__(self, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)
        self.root = uri.removeprefix("trainspool:")
        self.runs: list[str] = []
        self.experiments: list[str] = []

    def play(self, calls: list[list[Any]]) -> dict[str, Any]:
        mlflow.set_experiment("base")
        outcomes = [self.outcome(*call) for call in calls]
        while mlflow.active_run() is not None:
            outcomes.append(self.outcome("fluent", "end_run", {}))  # raises if the run was deleted
        return {"outcomes": outcomes, "runs": self.runs, "seen": everything(self.client, self.runs)}

    def outcome(self, name: str, *arguments: Any) -> Any:
        *positional, named = arguments
        try:
            result = getattr(self, name)(*positional, **named)
        except Failed:
            return "failed"
        except Exception as error:  # noqa: BLE001  whatever it raises is compared
            return f"raised {type(error).__name__}: {getattr(error, 'error_code', '')}: {error}"
        finally:
            self.learn()
        return result if name.startswith("read") else "done"

    def learn(self) -> None:
        run = mlflow.active_run()
        if run is not None and run.info.run_id not in self.runs:
            self.runs.append(run.info.run_id)

    def run(self, number: int) -> str:
        if not self.runs:
            self.create_run()
        return self.runs[number % len(self.runs)]

    def experiment(self, number: int) -> str:
        if not self.experiments:
            self.create_experiment("first")
        return self.experiments[number % len(self.experiments)]

    # -- fluent

    def start_run(self, **named: Any) -> None:
        mlflow.start_run(**named)

    def resume(self, number: int) -> None:
        mlflow.start_run(run_id=self.run(number), nested=True)

    def block(self, key: str, fails: bool, **named: Any) -> None:
        with mlflow.start_run(**named):
            self.learn()
            mlflow.log_metric(key, 1.5, step=1)
            if fails:
                raise Failed("of the script")

    def fluent(self, name: str, *positional: Any, **named: Any) -> None:
        getattr(mlflow, name)(*positional, **named)

    def log_metric_to(self, number: int, key: str, value: float) -> None:
        mlflow.log_metric(key, value, step=7, run_id=self.run(number))

    def log_file(self, content: str, folder: str | None) -> None:
        with tempfile.TemporaryDirectory() as scratch:  # gone when the call has returned, as with Lightning's logger
            path = os.path.join(scratch, "文件.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            mlflow.log_artifact(path, folder)

    # -- client

    def create_run(self, **named: Any) -> None:
        experiment = self.client.get_experiment_by_name("base")
        self.runs.append(self.client.create_run(experiment.experiment_id, **named).info.run_id)

    def log_batch(self, number: int, metrics: list[Any], params: list[Any], tags: list[Any], **named: Any) -> None:
        points = [Metric(key, value, timestamp, step) for key, value, timestamp, step in metrics]
        told = [Param(key, str(value)) for key, value in params], [RunTag(key, value) for key, value in tags]
        queued = self.client.log_batch(self.run(number), points, *told, **named)
        if queued is not None:
            queued.wait()

    def client_call(self, name: str, number: int, *positional: Any, **named: Any) -> None:
        getattr(self.client, name)(self.run(number), *positional, **named)

    def log_input(self, number: int, name: str, digest: str, context: str) -> None:
        dataset = Dataset(name, digest, "local", '{"uri": "x"}', '{"a": 1}', None)
        self.client.log_inputs(self.run(number), [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def create_experiment(self, name: str, **named: Any) -> None:
        self.experiments.append(self.client.create_experiment(name, **named))

    def experiment_call(self, name: str, number: int, *positional: Any) -> None:
        getattr(self.client, name)(self.experiment(number), *positional)

    # -- reading in between

    def read_run(self, number: int) -> Any:
        return one_run(self.client, self.run(number), self.runs)

    def read_search(self) -> Any:
        experiment = self.client.get_experiment_by_name("base")
        return sorted(self.runs.index(run.info.run_id) for run in self.client.search_runs([experiment.experiment_id]))

    def read_artifact(self, number: int) -> Any:
        run_id = self.run(number)
        files = [file.path for file in self.client.list_artifacts(run_id) if not file.is_dir]
        texts = []
        for path in files:
            with open(self.client.download_artifacts(run_id, path), encoding="utf-8") as file:
                texts.append([path, file.read()])
        return sorted(texts)


def everything(client: Any, runs: list[str]) -> dict[str, Any]:
    """Return all that MLflow's client tells of a store."""
    experiments = client.search_experiments(view_type=ViewType.ALL)
    return {
        "experiments": sorted(
            [one.name, one.lifecycle_stage, sorted(pair for pair in one.tags.items() if pair[0] not in NOT_COMPARED)]
            for one in experiments
        ),
        "runs": [one_run(client, run_id, runs) for run_id in runs],
        "listed": sorted(
            run.info.run_id
            for one in experiments
            for run in client.search_runs([one.experiment_id], run_view_type=ViewType.ALL)
        )
        == sorted(runs),
    }


def one_run(client: Any, run_id: str, runs: list[str]) -> dict[str, Any]:
    run = client.get_run(run_id)
    tags = {
        key: str(runs.index(value)) if key in NUMBERED else value
        for key, value in run.data.tags.items()
        if not key.startswith("trainspool.")
    }
    name = tags.pop("mlflow.runName")
    assert name == run.info.run_name
    start, end = run.info.start_time, run.info.end_time
    return {
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "status": run.info.status,
        "ended": end if end is None or start <= end < 1_700_000_000_000 else "some time",
        "started": start if start < 1_700_000_000_000 else "some time",
        "stage": run.info.lifecycle_stage,
        "user": run.info.user_id,
        "name": name if name.startswith("named") else "a random one",
        "params": run.data.params,
        "tags": tags,
        "latest": sorted(run.data.metrics),
        "history": {
            key: [[m.timestamp, m.step, repr(m.value)] for m in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "inputs": sorted(
            [one.dataset.name, one.dataset.digest, one.dataset.source, sorted((tag.key, tag.value) for tag in one.tags)]
            for one in run.inputs.dataset_inputs
        ),
        "artifacts": sorted(artifacts(client, run_id, None)),
    }


def artifacts(client: Any, run_id: str, path: str | None) -> Any:
    for file in client.list_artifacts(run_id, path):
        if file.is_dir:
            yield from artifacts(client, run_id, file.path)
        else:
            with open(client.download_artifacts(run_id, file.path), "rb") as content:
                yield [file.path, content.read().decode("utf-8", "replace")]


def main() -> None:
    prefix = sys.argv[1] if len(sys.argv) > 1 else ""
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow greets there
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.monotonic()
        answer = (
            Player(prefix + asked["root"]).play(asked["calls"]) if asked["calls"] is not None else read(prefix, asked)
        )
        print(json.dumps({**answer, "seconds": time.monotonic() - begun}), file=answers, flush=True)


def read(prefix: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A fresh process reads what another one wrote."""
    mlflow.set_tracking_uri(prefix + asked["root"])
    return {"seen": everything(MlflowClient(prefix + asked["root"]), asked["runs"])}


main()
