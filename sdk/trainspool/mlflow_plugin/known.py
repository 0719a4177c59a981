"""The runs that this process knows: which of trainspool's Run objects takes their log calls, and what a look at them
on MLflow's way to a log call is answered with, without asking the store.

Only runs that this process owns and has not ended are answered from here. Everybody else's may change under us.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from mlflow.entities import DatasetInput, RunInfo
from mlflow.entities.lifecycle_stage import LifecycleStage

from trainspool import active
from trainspool.entities import Experiment
from trainspool.mlflow_plugin.address import artifact_uri
from trainspool.run import Run

RUNS_MAX = 1024  # ended runs beyond it are forgotten; the store has them
INFO_AGE_S_MAX = 1.0  # of what is said of a run that another process may end


class KnownRun:
    """One run. Any thread; a forked child goes on with it as a guest."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lifecycle_stage: str = LifecycleStage.ACTIVE
        self.datasets: list[DatasetInput] = []
        self.models_in: list[Any] = []
        self.models_out: list[Any] = []
        self.read_at = time.monotonic()
        self.begun_ms = 0  # the attempt of this process
        self._info: tuple[object, Any] = (None, None)

    @property
    def is_open(self) -> bool:
        """Whether this process owns the run and has not ended it: then nobody knows better how it is."""
        return self.run.owner and self.run._end is None

    @property
    def is_fresh(self) -> bool:
        """Whether what is known of a run is not too old to be told."""
        return self.is_open or time.monotonic() - self.read_at < INFO_AGE_S_MAX

    @property
    def info(self) -> Any:
        """The run's info as MLflow's entity; made again only if it changed."""
        run = self.run
        state = (run.status, run.name, run.end_time, self.lifecycle_stage)
        if self._info[0] != state:
            self._info = (state, run_info(run, self.lifecycle_stage))
        return self._info[1]

    def learn(self, stored: Any) -> None:
        """Take over what the store says of a run that is not open here."""
        info, run = stored.info, self.run
        run.name = info.run_name or run.name
        run.status, run.start_time, run.end_time = info.status, info.start_time, info.end_time
        run.params, run.tags = dict(stored.data.params), dict(stored.data.tags)
        self.datasets = list(stored.inputs.dataset_inputs) if stored.inputs else []
        self.models_in = list(getattr(stored.inputs, "model_inputs", ()))
        self.models_out = list(stored.outputs.model_outputs) if getattr(stored, "outputs", None) else []
        self.read_at = time.monotonic()

    def add_datasets(self, inputs: Sequence[DatasetInput]) -> list[DatasetInput]:
        """Remember datasets; return those that were not known: a run has each once."""
        known = {(one.dataset.name, one.dataset.digest) for one in self.datasets}
        new = []
        for one in inputs:
            identity = (one.dataset.name, one.dataset.digest)
            if identity not in known:
                known.add(identity)
                new.append(one)
        self.datasets.extend(new)
        return new

    def add_models(self, to: list[Any], models: Sequence[Any]) -> None:
        known = {model.model_id for model in to}
        to.extend(model for model in models if model.model_id not in known)


class KnownRuns:
    """The runs of one store. Any thread; survives fork."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._runs: dict[str, KnownRun] = {}

    def get(self, run_id: str) -> KnownRun | None:
        return self._runs.get(run_id)

    def of_experiment(self, experiment_id: str) -> list[KnownRun]:
        return [known for known in list(self._runs.values()) if known.run.experiment.experiment_id == experiment_id]

    def begin(self, experiment: Experiment, *, name: str, user: str, start_ms: int, tags: dict[str, str]) -> KnownRun:
        """Start a run, of no thread, that this process owns until it is ended or the process is."""
        run = Run(os.urandom(16).hex(), experiment, self.root, name=name, user=user, owner=True)
        run.start_time = start_ms
        return self._start(KnownRun(run), tags, resume=False)

    def resume(self, known: KnownRun) -> KnownRun:
        """Open a new attempt of a run that was ended, or join one that others have begun."""
        before = known.run
        run = Run(before.run_id, before.experiment, self.root, name=before.name, user=before.user, owner=True)
        run.params, run.tags = before.params, before.tags
        again = KnownRun(run)
        again.lifecycle_stage = known.lifecycle_stage
        again.datasets, again.models_in, again.models_out = known.datasets, known.models_in, known.models_out
        # Later than the last end: attempts that touch are one, and the failure of the first would be the second's.
        run.start_time = max(run.start_time, (before.end_time or 0) + 1)
        self._start(again, {}, resume=True)
        run.start_time, run.end_time = before.start_time, before.end_time  # the run's, not the attempt's
        return again

    def end(self, known: KnownRun, status: str, end_ms: int | None, reason: str | None = None) -> None:
        """End a run that is open here. An attempt does not end before it began: the store would not take it."""
        active.end(known.run, status, reason, end_time=None if end_ms is None else max(end_ms, known.begun_ms))
        if len(self._runs) > RUNS_MAX:
            for run_id, one in list(self._runs.items()):
                if not one.is_open:
                    self._runs.pop(run_id, None)

    def met(self, stored: Any, experiment: Experiment) -> KnownRun:
        """Remember a run as MLflow read it from the store, to log to as a guest."""
        info = stored.info
        known = self._runs.get(info.run_id)
        if known is None:
            run = Run(
                info.run_id, experiment, self.root, name=info.run_name or info.run_id, user=info.user_id, owner=False
            )
            known = self._runs.setdefault(info.run_id, KnownRun(run))
        known.lifecycle_stage = info.lifecycle_stage  # which no event tells
        if not known.is_open:
            known.learn(stored)
        return known

    def _start(self, known: KnownRun, tags: dict[str, str], *, resume: bool) -> KnownRun:
        self._runs[known.run.run_id] = known
        known.begun_ms = known.run.start_time
        known.run.start(tags, resume=resume)
        active.opened(known.run)
        return known


def run_info(run: Run, lifecycle_stage: str) -> Any:
    """Return MLflow's entity; MLflow 2 has ``run_uuid`` as well."""
    return RunInfo.from_dictionary(
        {
            "run_id": run.run_id,
            "run_uuid": run.run_id,
            "run_name": run.name,
            "experiment_id": run.experiment.experiment_id,
            "user_id": run.user,
            "status": run.status,
            "start_time": run.start_time,
            "end_time": run.end_time,
            "lifecycle_stage": lifecycle_stage,
            "artifact_uri": artifact_uri(run.store, run.experiment.experiment_id, run.run_id),
        }
    )
