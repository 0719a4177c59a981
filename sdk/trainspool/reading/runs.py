"""One run of a store: its info, params, tags, latest metrics and points.

Source: mlflow-store.md 1.2, 1.5-1.7.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from trainspool.entities import Metric, RunData, RunInfo, StoredRun
from trainspool.reading import inputs, layout, meta
from trainspool.reading.layout import METRICS, PARAMS, TAGS, Place
from trainspool.reading.skipping import left_out
from trainspool.spool.events import RUNNING, STATUS_NAMES

RUN_NAME_TAG = "mlflow.runName"


def read(place: Place) -> StoredRun:
    """Return what the store has of the run at *place*.

    Raises:
        OSError, meta.UnreadableMeta: its ``meta.yaml`` cannot be read, or is none of a run.
    """
    return with_data(place, info_of(place, meta.read(place.folder)))


def with_data(place: Place, info: RunInfo) -> StoredRun:
    """Return the run that *info* tells of, with all that lies beside its ``meta.yaml``."""
    params, tags = (layout.texts(f"{place.folder}/{kind}") for kind in (PARAMS, TAGS))
    if not info.run_name:
        info = info._replace(run_name=tags.get(RUN_NAME_TAG, ""))
    return StoredRun(info, RunData(params, tags, _latest(place)), inputs.of_run(place))


def info_of(place: Place, values: dict[str, Any]) -> RunInfo:
    """Return a run's ``meta.yaml`` as MLflow's info.

    Raises:
        meta.UnreadableMeta: a key is missing or of another kind, or it is the ``meta.yaml`` of another run.
    """
    try:
        info = RunInfo(
            run_id=str(values.get("run_id", values.get("run_uuid"))),
            run_name=str(values.get("run_name") or ""),
            experiment_id=str(values["experiment_id"]),
            user_id=str(values["user_id"]),
            status=STATUS_NAMES[values.get("status", RUNNING)],
            start_time=int(values["start_time"]),
            end_time=None if values.get("end_time") is None else int(values["end_time"]),
            artifact_uri=str(values.get("artifact_uri") or ""),
            lifecycle_stage=str(values.get("lifecycle_stage", "active")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise meta.UnreadableMeta(f"nothing of a run: {error!r}") from error
    where = (os.path.basename(os.path.dirname(place.folder)), place.name)
    if (info.experiment_id, info.run_id) != where:
        raise meta.UnreadableMeta(f"it is of run {info.run_id} in experiment {info.experiment_id}")
    return info


def history(place: Place, key: str) -> list[Metric]:
    """Return every point of a metric, in the order of the file; none if the run has no such metric."""
    path = f"{place.folder}/{METRICS}/{key}"
    if not os.path.isfile(path):
        return []
    return [
        Metric(key, value, time_ms, step, None, *_dataset(fields), place.name)
        for step, time_ms, value, fields in _points(path)
    ]


def next_step(place: Place, prefix: str) -> int:
    """Return the step after the largest of all metrics whose keys begin with *prefix*."""
    folder = f"{place.folder}/{METRICS}"
    keys = [key for key in layout.keys(folder) if key.startswith(prefix)]
    return max((point[0] + 1 for key in keys for point in _points(f"{folder}/{key}")), default=0)


def _latest(place: Place) -> dict[str, float]:
    folder = f"{place.folder}/{METRICS}"
    found = {}
    for key in layout.keys(folder):
        latest = _latest_of(f"{folder}/{key}")
        if latest is not None:
            found[key] = latest
    return found


def _latest_of(path: str) -> float | None:
    """Return the value of the largest step, then time, then value; None if the file has no point."""
    try:  # the plain case, as most files are: a third of the time
        rows = [line.split(b" ") for line in _whole_lines(path).splitlines()]
        return max(((int(step), int(ms), float(value)) for ms, value, step in rows), default=(0, 0, None))[2]
    except ValueError:
        return max((point[:3] for point in _points(path)), default=(0, 0, None))[2]


_Point = tuple[int, int, float, list[bytes]]  # step, ms, value, all fields of the line


def _points(path: str) -> Iterator[_Point]:
    """Yield the points of a file. A line that is none is left out."""
    for line in _whole_lines(path).splitlines():
        fields = line.split(b" ")
        try:
            if len(fields) not in (2, 3, 5):
                raise ValueError(f"{len(fields)} fields; expected 2, 3 or 5")
            yield int(fields[2]) if len(fields) > 2 else 0, int(fields[0]), float(fields[1]), fields
        except ValueError as error:
            left_out(path, f"line {line[:80]!r}: {error}")


def _whole_lines(path: str) -> bytes:
    """Return a file but for a last line without its end: it is being written.

    MLflow takes ``12 0.5 1`` for a point where ``12 0.5 12`` is on its way.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            left_out(path, error)
        return b""
    return data[: data.rfind(b"\n") + 1]


def _dataset(fields: list[bytes]) -> tuple[str | None, str | None]:
    if len(fields) != 5:
        return None, None
    return fields[3].decode(errors="replace"), fields[4].decode(errors="replace")
