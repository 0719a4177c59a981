"""What a script left in a store, by MLflow's client, less ids, times and random names: equal on any store."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conformance import recipe

# Of a run's tags: what differs between two runs of one script wherever they go.
_RANDOM_TAGS = (
    "mlflow.runName",
    "mlflow.parentRunId",
    "mlflow.source.name",
    "datetime_start",
    "datetime_complete",
    "trial_name",
)
_RAYS_ID = "trial_id"  # logged if it happens to look like a number: "748e5_00000" does
_DURATION = re.compile("time|per_second|^pid$")


def runs_of(root: Path, experiment: str) -> list[dict[str, Any]]:
    """Return the runs of an experiment, in the order of what was logged to them, as ids and random names differ."""
    snap = {run_id: run for run_id, run in recipe.snapshot(root).items() if run["exp"] == experiment}
    files = recipe.check_artifacts(root, snap)
    models = _models(root, {run["eid"] for run in snap.values()})
    found = [
        {
            **_logged(snap, run_id),
            "artifacts": sorted(re.sub(r"\d{10}", "<time>", path) for path in files.get(run_id, [])),
            "models": sorted((models[model_id] for model_id in seen["outputs"]), key=str),
        }
        for run_id, seen in snap.items()
    ]
    return sorted(found, key=lambda run: (run["params"], str(run["below"]), run["tags"], str(run["history"])))


def _logged(snap: recipe.Snapshot, run_id: str) -> dict[str, Any]:
    seen = snap[run_id]
    parent = seen["tags"].get("mlflow.parentRunId")
    # The very same point twice, which autologging does, is one in our store (sdk/docs/mlflow.md).
    points = {key: list(dict.fromkeys(found)) for key, found in seen["hist"].items() if key != _RAYS_ID}
    return {
        "params": sorted(seen["params"].items()),
        "below": sorted(snap[parent]["params"].items()) if parent else None,
        "status": seen["info"]["status"],
        "tags": _tags(seen["tags"]),
        # Sorted: the asynchronous mode of stock MLflow, which Hugging Face uses, writes points in any order.
        "history": {
            key: sorted((step, value) for _, step, value in found)
            for key, found in points.items()
            if not _DURATION.search(key)
        },
        "timed": sorted(key for key in points if _DURATION.search(key)),
        "inputs": seen["inputs"],
    }


def _tags(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    kept = {key: value for key, value in tags.items() if not key.startswith("trainspool.")}
    return sorted((key, "" if key in _RANDOM_TAGS else _without_ids(value)) for key, value in kept.items())


def _without_ids(text: str) -> str:
    return re.sub("m-[0-9a-f]{32}|[0-9a-f]{32}", "<id>", text)


def _models(root: Path, experiments: set[str]) -> dict[str, dict[str, Any]]:
    """Return the logged models of experiments, by id: what they say, and the files they hold."""
    from mlflow import MlflowClient

    client = MlflowClient(str(root))
    found = {}
    for model in client.search_logged_models(sorted(experiments)) if experiments else []:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(_downloaded(client, model.model_id, folder))
            files = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
        found[model.model_id] = {
            "name": model.name,
            "status": str(model.status),
            "type": model.model_type,
            # Not its params: a copy of the run's that autologging takes while stock MLflow writes them; some are torn.
            "tags": _tags(model.tags),
            "metrics": sorted(
                (one.key, one.step, repr(one.value), one.dataset_name)
                for one in model.metrics or []
                if not _DURATION.search(one.key)
            ),
            "files": files,
        }
    return found


def _downloaded(client: Any, model_id: str, folder: str) -> str:
    from mlflow.artifacts import download_artifacts

    location = client.get_logged_model(model_id).artifact_location
    return str(download_artifacts(artifact_uri=location, dst_path=folder))
