"""Hugging Face's ``TrainerCallback``: ``Trainer(..., callbacks=[TrainspoolCallback()])``. Needs ``transformers``.

Params and metrics have the names that transformers' own ``MLflowCallback`` gives them. What differs: a log call takes
microseconds, and its point outlives the process; long params are kept; checkpoints are logged as they are, captured
before the trainer rotates them away; a training that raises has a FAILED run.

Source: transformers.integrations.integration_utils of 5.24, for names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
        self._experiment_name, self._run_name = experiment_name, run_name
        self._tags, self._log_checkpoints = tags, log_checkpoints
        self._training: training.Training | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join or begin the run; log the model's configuration and the training's arguments as params."""
        self._training = None
        if state.is_world_process_zero:
            self._begun(args, state, kwargs.get("model"))

    def _begun(self, args: TrainingArguments, state: TrainerState, model: Any) -> training.Training:
        if self._training is None:
            run_name = self._run_name or getattr(args, "run_name", None)
            tags = {**json.loads(os.environ.get("MLFLOW_TAGS") or "{}"), **(self._tags or {})}
            self._training = training.Training("Hugging Face", self._experiment_name, run_name, tags=tags)
            config: dict[str, Any] = getattr(getattr(model, "config", None), "to_dict", dict)()
            params = {**config, **args.to_dict()}
            if state.trial_name:
                params |= state.trial_params or {}
            training.log_params(self._training.run, params)
        return self._training

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log what the trainer reports, at the optimizer's step; ``logging_steps=1`` costs nothing here."""
        if state.is_world_process_zero and logs:
            run = self._begun(args, state, kwargs.get("model")).run  # evaluate() may come without train()
            training.log_numbers(run, logs, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the checkpoint, if asked to; the trainer may delete it as soon as this returns."""
        if self._training is None or not self._log_checkpoints:
            return
        name = f"checkpoint-{state.global_step}"
        self._training.run.log_artifacts(os.path.join(str(args.output_dir), name), f"checkpoints/{name}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the run, if it is this callback's own; what ``evaluate`` logs later still goes to it."""
        if self._training is not None:
            self._training.end()
