"""Runs as MLflow's entities: of a run that is open here, the data is read when somebody looks at it.

MLflow asks for the run before many a log call, and looks at its id, status, inputs and outputs alone. Those this
process has; metrics, params and tags are the store's, and waiting for it is for whoever wants them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.entities import Run, RunData, RunInputs

from trainspool.mlflow_plugin.address import artifact_uri
from trainspool.mlflow_plugin.known import KnownRun

try:
    from mlflow.entities import RunOutputs
except ImportError:  # MLflow 2
    RunOutputs = None


class DataInStore(RunData):
    """The data of a run, read from the store at the first look."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read: Callable[[], Any] | None = read

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: MLflow's own fields, all at once."""
        read = self.__dict__.get("_read")
        if read is None or name not in ("_metric_objs", "_metrics", "_params", "_tags"):
            raise AttributeError(name)
        self.__dict__.update(read().data.__dict__)
        return self.__dict__[name]

    @classmethod
    def _properties(cls) -> list[str]:
        return list(RunData._properties())

    def __reduce__(self) -> tuple[Any, ...]:
        plain = RunData()
        plain.__dict__.update({name: getattr(self, name) for name in ("_metric_objs", "_metrics", "_params", "_tags")})
        return plain.__class__, (), plain.__dict__


def open_run(known: KnownRun, read: Callable[[], Any]) -> Any:
    """Return a run that is open here; its lists are the caller's own, as MLflow's fluent calls add to them."""
    return _run(known, DataInStore(read))


def new_run(known: KnownRun, data: RunData) -> Any:
    """Return a run that was just begun, with the data it was begun with."""
    return _run(known, data)


def _run(known: KnownRun, data: RunData) -> Any:
    datasets = list(known.datasets)
    if RunOutputs is None:
        return Run(known.info, data, RunInputs(datasets))
    return Run(known.info, data, RunInputs(datasets, list(known.models_in)), RunOutputs(list(known.models_out)))


def with_our_address(root: str, run: Any) -> Any:
    """Have the artifact calls for a run that MLflow read come to us, if its artifacts are where ours are."""
    info = run.info
    plain = f"{root}/{info.experiment_id}/{info.run_id}/artifacts"
    if info.artifact_uri in (plain, f"file://{plain}"):
        info._artifact_uri = artifact_uri(root, info.experiment_id, info.run_id)
    return run
