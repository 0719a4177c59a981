"""What the same training gave in our store and in stock MLflow's, made comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from box import Box, Stored, until

NOT_OURS_TO_SAY = ("mlflow.", "trainspool.")  # tags that tell of the process, not of the training


def runs_of(root: Path, experiment: str) -> list[Stored]:
    """Return the runs of the experiment of that name, in the order of their names."""
    for meta in root.glob("*/meta.yaml"):
        if yaml.safe_load(meta.read_text("utf-8"))["name"] == experiment:
            found = [Stored(path.parent) for path in meta.parent.glob("*/meta.yaml") if path.parent.name != "models"]
            return sorted(found, key=lambda run: (run.meta["run_name"], run.run_id))
    return []


def the_run(root: Path, experiment: str) -> Stored:
    (run,) = runs_of(root, experiment)
    return run


def said_of(run: Stored) -> dict[str, Any]:
    """Return what a run holds, without ids, times and what tells of the process."""
    keys = [str(path.relative_to(run.folder / "metrics")) for path in (run.folder / "metrics").rglob("*")]
    return {
        "name": run.meta["run_name"],
        "status": run.status,
        "params": run.texts("params"),
        "tags": {k: v for k, v in run.texts("tags").items() if not k.startswith(NOT_OURS_TO_SAY)},
        "metrics": {
            key: [(step, float(value)) for _, value, step in run.points(key)]
            for key in keys
            if (run.folder / "metrics" / key).is_file()
        },
    }


def carried(box: Box) -> None:
    """Wait until the store has all that ended processes logged, artifacts too."""
    until(box.is_quiet, "everything is carried and durable")
