"""Run by MLflow 2's own Python: print what it reads of a file store, as JSON."""

from __future__ import annotations

import json
import sys

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.version import VERSION

client = MlflowClient(sys.argv[1])
found = {}
for experiment in client.search_experiments(view_type=ViewType.ALL):
    for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1000):
        full = client.get_run(run.info.run_id)
        found[run.info.run_id] = {
            "exp": experiment.name,
            "status": full.info.status,
            "run_name": full.info.run_name,
            "params": full.data.params,
            "tags": full.data.tags,
            "hist": {
                key: [[m.timestamp, m.step, repr(m.value)] for m in client.get_metric_history(run.info.run_id, key)]
                for key in full.data.metrics
            },
            "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }
json.dump({"version": VERSION, "runs": found}, sys.stdout)
