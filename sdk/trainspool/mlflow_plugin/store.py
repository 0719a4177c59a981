"""The tracking store that MLflow calls: writes go into the ring, reads to the store.

What MLflow asks on its way to a log call is answered from this process. Any other read waits until the store has what
this process wrote, and is then MLflow's own file store's. So is what no event can say, such as deletion.
"""

from __future__ import annotations

import atexit
import functools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from mlflow.entities import RunData, RunStatus, RunTag
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS
from mlflow.utils.validation import (
    _validate_batch_log_limits,
    _validate_param_keys_unique,
    _validate_run_id,
    _validate_tag_name,
)

from trainspool import leaving, naming, validation
from trainspool.complaints import warn
from trainspool.errors import TrainspoolException
from trainspool.mlflow_plugin import filestore, points
from trainspool.mlflow_plugin.datasets import log_dataset
from trainspool.mlflow_plugin.entities import new_run, open_run, with_our_address
from trainspool.mlflow_plugin.experiments import Experiments
from trainspool.mlflow_plugin.failures import as_mlflow, does_not_exist, in_mlflows_terms
from trainspool.mlflow_plugin.filestorecalls import complete
from trainspool.mlflow_plugin.folder import Folder
from trainspool.mlflow_plugin.known import KnownRun, KnownRuns
from trainspool.mlflow_plugin.waiting import in_time, settle
from trainspool.run import Run
from trainspool.runtexts import RUN_NAME
from trainspool.runtexts import _param_text as param_text
from trainspool.stream import stream

_exits: list[bool] = []  # whether the interpreter does; at a prompt an uncaught exception ends nothing
atexit.register(_exits.append, True)  # after MLflow's own, so it is called before that

_NOT_THERE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
_TAG_CHARACTERS_MAX = 8000  # in a batch; a single tag has no limit


@functools.cache
def store_at(root: str) -> TrainspoolStore:
    """Return the store in *root*; one per process, as it knows what this process wrote."""
    return TrainspoolStore(root)


class TrainspoolStore(AbstractStore):
    """A folder of runs, written through the spool. Any thread; survives fork."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        self.folder = Folder(root)
        self.experiments = Experiments(self.folder)
        self.runs = KnownRuns(root)

    def registry(self) -> Any:
        """Return MLflow's registry of models in the same folder."""
        _ = self.folder.files
        return filestore.registry(self.root)

    # -- experiments

    @in_mlflows_terms
    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        return self.experiments.create(name, artifact_location, list(tags or ()))

    def get_experiment(self, experiment_id: str) -> Any:
        return self.experiments.by_id("0" if experiment_id is None else str(experiment_id))

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        return self.experiments.by_name(experiment_name)

    @in_mlflows_terms
    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        self.experiments.set_tag(str(experiment_id), tag)

    @in_mlflows_terms
    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        self.experiments.delete_tag(str(experiment_id), key)

    def delete_experiment(self, experiment_id: str) -> None:
        self._change_experiment(experiment_id, lambda files: files.delete_experiment(experiment_id))
        self._mark(experiment_id, LifecycleStage.DELETED)

    def restore_experiment(self, experiment_id: str) -> None:
        self._change_experiment(experiment_id, lambda files: files.restore_experiment(experiment_id))
        self._mark(experiment_id, LifecycleStage.ACTIVE)

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        self._change_experiment(experiment_id, lambda files: files.rename_experiment(experiment_id, new_name))

    def _change_experiment(self, experiment_id: str, change: Callable[[Any], object]) -> None:
        change(self.folder.settled())
        self.experiments.changed(str(experiment_id))

    def _mark(self, experiment_id: str, lifecycle_stage: str) -> None:
        for known in self.runs.of_experiment(str(experiment_id)):
            known.lifecycle_stage = lifecycle_stage

    # -- runs

    @in_mlflows_terms
    def create_run(self, experiment_id: str, user_id: str, start_time: int, tags: Any, run_name: str) -> Any:
        experiment = self.experiments.of_run("0" if experiment_id is None else str(experiment_id))
        texts = {tag.key: "" if tag.value is None else str(tag.value) for tag in tags or ()}
        texts[RUN_NAME] = _name_of(run_name, texts.get(RUN_NAME))
        for key in texts:
            _validate_tag_name(key)
        start_ms = start_time or time.time_ns() // 1_000_000
        name = texts[RUN_NAME]
        known = self.runs.begin(experiment, name=name, user=user_id or "unknown", start_ms=start_ms, tags=texts)
        return new_run(known, RunData(tags=[RunTag(key, value) for key, value in texts.items()]))

    def get_run(self, run_id: str) -> Any:
        known = self.runs.get(run_id)
        if known is not None and known.run.status == "RUNNING" and known.is_fresh:
            return open_run(known, lambda: self._stored_run(run_id))
        return self._meet(run_id)

    @in_mlflows_terms
    def update_run_info(self, run_id: str, run_status: int, end_time: int | None, run_name: str | None) -> Any:
        known = self._active_run(run_id)
        status = known.run.status if run_status is None else RunStatus.to_string(run_status)
        if status == "SCHEDULED":
            raise MlflowException(
                "trainspool knows no SCHEDULED runs: its runs begin when they are created. Next: RUNNING, or a final "
                "status",
                INVALID_PARAMETER_VALUE,
            )
        if status == "RUNNING":
            known = known if known.is_open else self.runs.resume(known)
        elif known.is_open or (known.run.status, known.run.end_time) != (status, end_time):
            known = self._end(known, status, end_time)
        if run_name:
            known.run.set_tag(RUN_NAME, run_name)
        return known.info

    def _end(self, known: KnownRun, status: str, end_time: int | None) -> KnownRun:
        if not known.is_open:  # ended already, or another's: an attempt of our own that says how it went
            known = self.runs.resume(known)
        reason = leaving.uncaught() if _exits else None
        if status == "FINISHED" and reason is not None:
            status = "FAILED"  # MLflow ends the active run as FINISHED when the interpreter exits, whatever of
        self.runs.end(known, status, end_time, reason)
        return known

    def delete_run(self, run_id: str) -> None:
        self._change_run(run_id, LifecycleStage.DELETED, lambda files: files.delete_run(run_id))

    def restore_run(self, run_id: str) -> None:
        self._change_run(run_id, LifecycleStage.ACTIVE, lambda files: files.restore_run(run_id))

    def _change_run(self, run_id: str, lifecycle_stage: str, change: Callable[[Any], object]) -> None:
        self._known_run(run_id)
        change(self.folder.settled())
        known = self.runs.get(run_id)
        if known is not None:
            known.lifecycle_stage = lifecycle_stage

    def _known_run(self, run_id: str) -> KnownRun:
        """Return what this process knows of a run; a look at the store if it is nothing.

        Raises:
            MlflowException: there is no such run.
        """
        known = self.runs.get(run_id)
        if known is None:
            self._meet(run_id)
            known = self.runs.get(run_id)
            assert known is not None
        return known

    def _meet(self, run_id: str) -> Any:
        """Return a run as the store has it, and know it from now on."""
        stored = self._stored_run(run_id)
        self.runs.met(stored, self.experiments.any_of_run(stored.info.experiment_id))
        return with_our_address(self.root, stored)

    def _stored_run(self, run_id: str) -> Any:
        _validate_run_id(run_id)
        settle()
        found = in_time(lambda: self._look_for(run_id))
        if found is None:
            nothing = " (TRAINSPOOL_DISABLED is set: nothing is stored)" if stream.configured().disabled else ""
            raise does_not_exist(f"Run '{run_id}' not found{nothing}")
        return found

    def _look_for(self, run_id: str) -> Any:
        if not self.folder.is_there:
            return None
        try:
            return self.folder.files.get_run(run_id)
        except MlflowException as error:
            if error.error_code != _NOT_THERE:
                raise
            return None

    def _active_run(self, run_id: str) -> KnownRun:
        known = self.runs.get(run_id) or self._known_run(run_id)
        if known.lifecycle_stage != LifecycleStage.ACTIVE:
            self._meet(run_id)  # another process may have restored it
            known = self._known_run(run_id)
        if known.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException(
                f"The run {run_id} must be in the 'active' state. Current state is {known.lifecycle_stage}.",
                INVALID_PARAMETER_VALUE,
            )
        return known

    def run_with_artifacts(self, run_id: str) -> Run:
        """Return trainspool's Run; a deleted one takes artifacts, as in MLflow. MlflowException: there is none."""
        return self._known_run(run_id).run

    # -- logging

    def log_metric(self, run_id: str, metric: Any) -> None:
        known = self._active_run(run_id)
        try:
            points.log_metric(known.run, metric)
        except TrainspoolException as error:
            raise as_mlflow(error) from error
        if getattr(metric, "model_id", None) is not None:
            self._log_model_metric(known, metric)

    @in_mlflows_terms
    def log_param(self, run_id: str, param: Any) -> None:
        run = self._active_run(run_id).run
        _check_param(run, param)
        run.log_param(param.key, param.value)

    @in_mlflows_terms
    def set_tag(self, run_id: str, tag: Any) -> None:
        self._active_run(run_id).run.set_tag(tag.key, "" if tag.value is None else tag.value)

    @in_mlflows_terms
    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        _validate_batch_log_limits(metrics, params, tags)
        _validate_param_keys_unique(params)
        known = self._active_run(run_id)
        told = points.checked(metrics)
        for one in (*params, *tags):
            validation.check_key(one.key, "key")
        for param in params:
            _check_param(known.run, param)
        if params:
            known.run.log_params({param.key: param.value for param in params})
        told.log(known.run)
        if tags:
            known.run.set_tags({tag.key: _batch_text(tag.value) for tag in tags})
        for metric in told.of_models:
            self._log_model_metric(known, metric)

    def log_batch_async(self, run_id: str, metrics: Any, params: Any, tags: Any) -> RunOperations:
        """Log at once: the ring takes it in microseconds and keeps it over a kill, which MLflow's queue does not.

        What is refused is told as MLflow does: to whoever waits for the operation.
        """
        done: Future[None] = Future()
        try:
            self.log_batch(run_id, metrics, params, tags)
            done.set_result(None)
        except MlflowException as error:
            warn("a batch for run %s was refused: %s", run_id, error)
            done.set_exception(error)
        return RunOperations([done])

    @in_mlflows_terms
    def delete_tag(self, run_id: str, key: str) -> None:
        run = self._active_run(run_id).run
        if key not in run.tags:
            stored = self._stored_run(run_id).data.tags
            if key not in stored:
                raise does_not_exist(f"No tag with name: {key} in run with id {run_id}")
            run.tags[key] = stored[key]
        run.delete_tag(key)

    @in_mlflows_terms
    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        known = self._active_run(run_id)
        for one in known.add_datasets(datasets or ()):
            log_dataset(known.run, one)
        if models:
            self.folder.settled().log_inputs(run_id, None, models)
            known.add_models(known.models_in, models)

    # -- models

    def log_outputs(self, run_id: str, models: Any) -> None:
        known = self._active_run(run_id)
        if models:
            self.folder.settled().log_outputs(run_id, models)
            known.add_models(known.models_out, models)

    @in_mlflows_terms
    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        run = self._active_run(run_id).run
        models = json.loads(run.tags.get(MLFLOW_LOGGED_MODELS) or "[]")
        run.set_tag(MLFLOW_LOGGED_MODELS, json.dumps([*models, mlflow_model.get_tags_dict()]))

    def _log_model_metric(self, known: KnownRun, metric: Any) -> None:
        experiment_id = known.run.experiment.experiment_id
        self.folder.files._log_model_metric(experiment_id, metric.model_id, known.run.run_id, metric)

    # -- reading

    def get_metric_history(self, run_id: str, metric_key: str, max_results: Any = None, page_token: Any = None) -> Any:
        self._known_run(run_id)
        return self.folder.settled().get_metric_history(run_id, metric_key, max_results, page_token)

    def search_runs(self, experiment_ids: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        files = self.folder.settled()
        stored = [self.experiments.stored_id(str(experiment_id)) for experiment_id in experiment_ids]
        found = files.search_runs(stored, *arguments, **named)
        for run in found:
            with_our_address(self.root, run)
        return found

    def _search_runs(self, *arguments: Any, **named: Any) -> tuple[Sequence[Any], Any]:
        found = self.search_runs(*arguments, **named)
        return found, found.token


def _name_of(run_name: str | None, tag: str | None) -> str:
    if run_name and tag and run_name != tag:
        raise MlflowException(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
            f"(run_name='{run_name}', mlflow.runName='{tag}').",
            INVALID_PARAMETER_VALUE,
        )
    return run_name or tag or naming.random_run_name()


def _check_param(run: Run, param: Any) -> None:
    """Raise as MLflow does for another value of a param whose value this process knows."""
    first, text = run.params.get(param.key), param_text(param.key, param.value)
    if first is not None and first != text:
        raise MlflowException(
            f"Changing param values is not allowed. Param with key='{param.key}' was already logged with "
            f"value='{first}' for run ID='{run.run_id}'. Attempted logging new value '{text}'.",
            INVALID_PARAMETER_VALUE,
        )


def _batch_text(value: Any) -> str:
    return "" if value is None else str(value)[:_TAG_CHARACTERS_MAX]


complete(TrainspoolStore)
