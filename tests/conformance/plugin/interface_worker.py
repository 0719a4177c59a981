"""Run by one or another MLflow's Python: calls everything in MLflow's store interface, and prints what became of it.

Each call is made with what it needs, as far as names tell; it may work or raise what says why, but never return None in
silence where MLflow promises something. Answers name → "works", "None" or the exception's type and message.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunStatus, RunTag, ViewType
from mlflow.store.tracking.abstract_store import AbstractStore

GIVEN: dict[str, Any] = {
    "view_type": ViewType.ALL,
    "run_view_type": ViewType.ALL,
    "order_by": None,
    "page_token": None,
    "filter_string": "",
    "max_results": 10,
    "tags": [],
    "params": [],
    "metrics": [],
    "datasets": [],
    "models": [],
    "artifact_location": None,
    "metric": Metric("loss", 1.0, 0, 0),
    "param": Param("lr", "0.1"),
    "tag": RunTag("key", "value"),
    "run_status": RunStatus.FINISHED,
    "end_time": 1_600_000_000_000,
}


def outcome(store: Any, name: str, given: dict[str, Any]) -> str:
    # The interface's signature: ours takes whatever MLflow's own file store takes.
    parameters = inspect.signature(getattr(AbstractStore, name)).parameters.values()
    needed = [one for one in parameters if one.default is inspect.Parameter.empty and one.name != "self"]
    arguments = {
        one.name: given.get(one.name, "1")
        for one in needed
        if one.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }
    if name == "search_traces":
        arguments["experiment_ids" if "locations" not in {one.name for one in parameters} else "locations"] = ["0"]
    try:
        result = getattr(store, name)(**arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:  # noqa: BLE001  what it says is what the test looks at
        return f"{type(error).__name__}: {error}"
    return "None" if result is None else "works"


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    client = mlflow.MlflowClient()
    store = client._tracking_client.store
    run_id = client.create_run("0").info.run_id
    given = {**GIVEN, "experiment_id": "0", "experiment_ids": ["0"], "run_id": run_id, "experiment_name": "Default"}
    names = [name for name in dir(AbstractStore) if not name.startswith("_")]
    calls = [name for name in names if callable(getattr(AbstractStore, name))]
    last = {"delete_run", "delete_experiment", "shut_down_async_logging", "end_async_logging"}
    found = {name: outcome(store, name, given) for name in sorted(calls, key=lambda name: (name in last, name))}
    ours = {name: type(store).__dict__.get(name) is not None for name in calls}
    print(json.dumps({"version": mlflow.__version__, "outcomes": found, "ours": ours}), file=answers)


main()
