"""``meta.yaml`` of experiments and runs, both directions.

Source: mlflow-store.md 1.1-1.3. Written without a YAML library, every string quoted, so that nothing is taken for a
number or a date; read with one, because MLflow and people write what they like.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml

from trainspool.spool import plainyaml

render = plainyaml.render
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
META_BYTES_MAX = 1 << 20
NESTING_MAX = 16


class UnreadableMeta(ValueError):
    """Empty, cut off or no mapping: someone may be writing it just now. Never overwritten."""


def read(path: Path | str) -> dict[str, Any]:
    """Return the mapping in *path*.

    Raises:
        OSError: there is none, or it cannot be read.
        UnreadableMeta: it is not whole, or nothing that MLflow writes.
    """
    data = _bytes_of(path)
    try:
        _check_shape(data)
        values = yaml.load(data, Loader=_LOADER)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableMeta(f"{path}: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise UnreadableMeta(f"{path}: not a mapping")
    return values


def _bytes_of(path: Path | str) -> bytes:
    """Read a plain file of bounded size; a pipe in its place must not stop us for ever, nor a link lead us away."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnreadableMeta(f"{path}: no plain file")
        data = file.read(META_BYTES_MAX + 1)
    if len(data) > META_BYTES_MAX:
        raise UnreadableMeta(f"{path}: more than {META_BYTES_MAX} bytes")
    return data


def _check_shape(data: bytes) -> None:
    """Refuse what expands (aliases) or nests: the C loader recurses without a limit, and dies of it."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases are nothing that MLflow writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > NESTING_MAX:
            raise ValueError(f"nested deeper than {NESTING_MAX}")


def run_meta(
    run_id: str, experiment_id: str, artifact_uri: str, *, user: str, name: str, start_ms: int, lifecycle: str
) -> dict[str, Any]:
    """Return a new run's ``meta.yaml``; ``run_uuid`` is for MLflow 2."""
    return {
        "artifact_uri": artifact_uri,
        "end_time": None,
        "entry_point_name": "",
        "experiment_id": experiment_id,
        "lifecycle_stage": lifecycle,
        "run_id": run_id,
        "run_name": name,
        "run_uuid": run_id,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": start_ms,
        "status": 1,
        "tags": [],
        "user_id": user,
    }


def experiment_meta(experiment_id: str, name: str, location: str, created_ms: int) -> dict[str, Any]:
    return {
        "artifact_location": location,
        "creation_time": created_ms,
        "experiment_id": experiment_id,
        "last_update_time": created_ms,
        "lifecycle_stage": "active",
        "name": name,
    }
