"""Experiments: the store's, and those that this process has made and the store may not have yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from mlflow.entities import Experiment, ExperimentTag
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.exceptions import MissingConfigException, MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.utils.validation import _validate_experiment_id, _validate_experiment_name, _validate_experiment_tag

from trainspool import entities, validation
from trainspool.mlflow_plugin.failures import does_not_exist
from trainspool.mlflow_plugin.folder import Folder
from trainspool.mlflow_plugin.waiting import in_time
from trainspool.spool.experiments import DEFAULT_ID, DEFAULT_NAME, experiment_ids_for
from trainspool.stream import stream

_NOT_THERE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class Experiments:
    """The experiments of one store. Any thread; survives fork."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._known: dict[str, Any] = {}
        self._told: dict[str, dict[str, str | None]] = {}  # tags that the store may not have yet, by experiment

    def by_name(self, name: str) -> Any:
        """Return the experiment of that name, a deleted one too; None if there is none."""
        return self._with_tags_told(lambda: self._by_name(name))

    def _by_name(self, name: str) -> Any:
        found = self._folder.files.get_experiment_by_name(name) if self._folder.is_there else None
        if found is not None:
            self._known[found.experiment_id] = found
            return found
        if name == DEFAULT_NAME and not self._folder.is_there:
            return self._made(DEFAULT_ID, DEFAULT_NAME, {})
        return next((one for one in self._known.values() if one.name == name and not self._is_stored(one)), None)

    def by_id(self, experiment_id: str) -> Any:
        """Return the experiment.

        Raises:
            MlflowException: there is none.
        """
        _validate_experiment_id(experiment_id)
        found = self._with_tags_told(lambda: self._find(experiment_id) or in_time(lambda: self._find(experiment_id)))
        if found is None:
            raise does_not_exist(f"Experiment '{experiment_id}' does not exist.")
        return found

    def _with_tags_told(self, look: Callable[[], Any]) -> Any:
        """Return what *look* finds, with the tags that this process has set and the store had not by then."""
        if self._told and stream.wait(0):
            self._told.clear()
        found = look()
        for key, value in self._told.get(found.experiment_id, {}).items() if found is not None else ():
            if value is None:
                found.tags.pop(key, None)
            else:
                found.tags[key] = value
        return found

    def of_run(self, experiment_id: str) -> entities.Experiment:
        """Return the experiment for a run, as it is now: someone may have deleted or renamed it.

        Raises:
            MlflowException: there is none, or it is deleted.
        """
        found = self._known.get(experiment_id)
        if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE or self._is_stored(found):
            found = self.by_id(experiment_id)
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException(
                f"Could not create run under non-active experiment with ID {experiment_id}.", INVALID_STATE
            )
        return _told(found)

    def any_of_run(self, experiment_id: str) -> entities.Experiment:
        """Return the experiment that a run lies in, deleted or not; raises as ``by_id``."""
        return _told(self._known.get(experiment_id) or self.by_id(experiment_id))

    def create(self, name: str, artifact_location: str | None, tags: Iterable[ExperimentTag]) -> str:
        """Make an experiment; returns its id. Nothing is waited for.

        Raises:
            MlflowException: there is one of that name, the name cannot be one, or its artifacts are to lie elsewhere.
        """
        _validate_experiment_name(name)
        validation.check_experiment_name(name)
        for tag in tags:
            _validate_experiment_tag(tag.key, tag.value)
        _refuse_existing(name, self.by_name(name))
        experiment_id = next(one for one in experiment_ids_for(name) if self._find(one) is None)
        self._refuse_elsewhere(artifact_location, experiment_id)
        texts = {tag.key: str(tag.value) for tag in tags}
        self._folder.tell_experiment(experiment_id, name, [text for pair in texts.items() for text in pair])
        self._made(experiment_id, name, texts)
        return experiment_id

    def set_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        _validate_experiment_tag(tag.key, tag.value)
        self._tell_tag(self._active(experiment_id, "set"), tag.key, str(tag.value))

    def delete_tag(self, experiment_id: str, key: str) -> None:
        self._active(experiment_id, "delete")
        stored = self._folder.settled().get_experiment(self.stored_id(experiment_id))
        if key not in stored.tags:
            raise does_not_exist(f"No tag with name: {key} in experiment with id {experiment_id}")
        self._tell_tag(stored, key, None)

    def _tell_tag(self, experiment: Any, key: str, value: str | None) -> None:
        self._folder.tell_experiment(experiment.experiment_id, experiment.name, [key, value])
        self._told.setdefault(experiment.experiment_id, {})[key] = value

    def changed(self, experiment_id: str) -> None:
        """Forget what was known: MLflow's file store has renamed, deleted or restored the experiment."""
        self._known.pop(experiment_id, None)

    def _find(self, experiment_id: str) -> Any:
        if self._folder.is_there:
            try:
                found = self._folder.files.get_experiment(experiment_id)
            except MissingConfigException:
                pass  # the agent is just making it for another process: the folder first, meta.yaml last
            except MlflowException as error:
                if error.error_code != _NOT_THERE:
                    raise
            else:
                self._known[experiment_id] = found
                return found
        elif experiment_id == DEFAULT_ID:
            return self._made(DEFAULT_ID, DEFAULT_NAME, {})
        known = self._known.get(experiment_id)
        # MLflow beside us may have made one of that name before the agent came to ours: then that is the one.
        return known and (self._stored_as(known) or known)

    def stored_id(self, experiment_id: str) -> str:
        """Return the id that an experiment of this process has in the store: another one, if MLflow was faster."""
        known = self._known.get(experiment_id)
        stored = None if known is None or self._is_stored(known) else self._stored_as(known)
        return experiment_id if stored is None else str(stored.experiment_id)

    def _stored_as(self, experiment: Any) -> Any:
        return self._folder.files.get_experiment_by_name(experiment.name) if self._folder.is_there else None

    def _made(self, experiment_id: str, name: str, tags: dict[str, str]) -> Any:
        now = time.time_ns() // 1_000_000
        location = f"{self._folder.root}/{experiment_id}"
        told = [ExperimentTag(key, value) for key, value in tags.items()]
        made = Experiment(experiment_id, name, location, LifecycleStage.ACTIVE, told, now, now)
        self._known[experiment_id] = made
        return made

    def _is_stored(self, experiment: Any) -> bool:
        return any(
            os.path.exists(f"{self._folder.root}/{parent}{experiment.experiment_id}/meta.yaml")
            for parent in ("", ".trash/")
        )

    def _active(self, experiment_id: str, what: str) -> Any:
        found = self.by_id(experiment_id)
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException(
                f"The experiment {experiment_id} must be in the 'active' lifecycle_stage to {what} tags",
                INVALID_PARAMETER_VALUE,
            )
        return found

    def _refuse_elsewhere(self, location: str | None, experiment_id: str) -> None:
        ours = f"{self._folder.root}/{experiment_id}"
        if location and location.removeprefix("file://").rstrip("/") != ours:
            raise MlflowException(
                f"artifact_location={location!r}: trainspool keeps artifacts in the store, here in {ours}. Next: leave "
                "artifact_location out; mlflow migrate-filestore takes the finished runs elsewhere",
                INVALID_PARAMETER_VALUE,
            )


def _told(experiment: Any) -> entities.Experiment:
    return entities.Experiment(experiment.experiment_id, experiment.name, experiment.artifact_location)


def _refuse_existing(name: str, found: Any) -> None:
    if found is None:
        return
    if found.lifecycle_stage == LifecycleStage.ACTIVE:
        raise MlflowException(f"Experiment '{name}' already exists.", RESOURCE_ALREADY_EXISTS)
    raise MlflowException(
        f"Experiment {name!r} already exists in deleted state. You can restore the experiment, or permanently delete "
        "the experiment from the .trash folder (under tracking server's root folder) in order to use this experiment "
        "name again.",
        RESOURCE_ALREADY_EXISTS,
    )
