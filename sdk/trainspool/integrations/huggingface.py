"""Hugging Face's ``TrainerCallback``: ``Trainer(..., callbacks=[TrainspoolCallback()])``. Needs ``transformers``.

Params and metrics have the names that transformers' own ``MLflowCallback`` gives them. What differs: a log call takes
microseconds, and its point outlives the process; long params are kept; checkpoints are logged as they are; evaluations
before and after a training go to its run; a training that raises has a FAILED run.

Source: transformers.integrations.integration_utils of 5.24, for names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainspool.complaints import warn
from trainspool.integrations import training


class TrainspoolCallback(TrainerCallback):
    """Logs a training to a run: the active one, or one of its own that ends with the training. Of rank 0 only.

    Args:
        experiment_name: of a run begun here; None: as ``set_experiment`` or TRAINSPOOL_EXPERIMENT say.
        run_name: of a run begun here; None: ``TrainingArguments.run_name``, else generated.
        tags: of the run.
        log_checkpoints: log every checkpoint's folder when it is saved, as ``checkpoints/checkpoint-<step>``.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        *,
        tags: Mapping[str, Any] | None = None,
        log_checkpoints: bool = False,
    ) -> None:
        self._experiment_name = training.checked(experiment_name)
        self._run_name, self._tags, self._log_checkpoints = run_name, tags, log_checkpoints
        self._training: training.Training | None = None
        self._evaluated: str | None = None  # the run of an evaluation that no training came before

    @training.shielded
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join or begin the run; log the model's configuration and the training's arguments as params."""
        self._training = None
        if state.is_world_process_zero:
            begun = self._begin(args, self._evaluated)
            self._evaluated = None
            training.log_params(begun.run, _params(args, state, kwargs.get("model")))

    @training.shielded
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log what the trainer reports, at the optimizer's step; ``logging_steps=1`` costs nothing here."""
        if not state.is_world_process_zero or not logs:
            return
        if self._training is None:  # evaluate() without train()
            begun = self._begin(args, self._evaluated)
            self._evaluated = begun.run.run_id if begun.began else None
        if self._training is not None:
            training.log_numbers(self._training.run, logs, state.global_step)

    @training.shielded
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the run of an evaluation that is no training's; a training that follows goes on with it."""
        if self._evaluated is not None and self._training is not None:
            self._training.end()
            self._training = None

    @training.shielded
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the checkpoint, if asked to: captured when this returns."""
        if self._training is None or not self._log_checkpoints:
            return
        name = f"checkpoint-{state.global_step}"
        self._training.run.log_artifacts(os.path.join(str(args.output_dir), name), f"checkpoints/{name}")

    @training.shielded
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the run, if it is this callback's own; what ``evaluate`` logs later still goes to it."""
        if self._training is not None:
            self._training.end()

    def _begin(self, args: TrainingArguments, run_id: str | None) -> training.Training:
        run_name = self._run_name or getattr(args, "run_name", None)
        tags = {**_tags_of_environment(), **(self._tags or {})}
        self._training = training.Training("transformers", self._experiment_name, run_name, run_id=run_id, tags=tags)
        return self._training


def _params(args: TrainingArguments, state: TrainerState, model: Any) -> dict[str, Any]:
    config: dict[str, Any] = getattr(getattr(model, "config", None), "to_dict", dict)()
    return {**config, **args.to_dict(), **((state.trial_params or {}) if state.trial_name else {})}


def _tags_of_environment() -> dict[str, Any]:
    """Return the tags that MLFLOW_TAGS holds, as transformers' callback for MLflow reads it."""
    said = os.environ.get("MLFLOW_TAGS")
    try:
        tags = json.loads(said or "{}")
    except ValueError:
        tags = None
    if not isinstance(tags, dict):
        warn("MLFLOW_TAGS is no JSON object, and left out: %.100s", said)
        return {}
    return tags
