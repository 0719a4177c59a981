"""Keras' callback: ``model.fit(..., callbacks=[TrainspoolCallback()])``. Needs ``keras`` 3, with any backend.

Params and metrics have the names that MLflow's ``MlflowCallback`` gives them. What differs: a log call takes
microseconds, and its point outlives the process; batches may be logged beside epochs; a fit that raises has a FAILED
run.

Source: mlflow.keras.callback of 3.17, for names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from trainspool.integrations import training


class TrainspoolCallback(keras.callbacks.Callback):
    """Logs a fit to a run: the active one, or one of its own that ends with the fit.

    Args:
        experiment_name: of a run begun here; None: as ``set_experiment`` or TRAINSPOOL_EXPERIMENT say.
        run_name: of a run begun here; None: generated.
        tags: of the run.
        log_every_n_steps: log the metrics of every n-th batch too, as ``batch/<name>`` at the batch's number since the
            fit began. None: epochs only. Reading them waits for the device.
        log_model: log the model at the end of the fit, as ``model.keras``.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        *,
        tags: Mapping[str, Any] | None = None,
        log_every_n_steps: int | None = None,
        log_model: bool = False,
    ) -> None:
        super().__init__()
        self._experiment_name, self._run_name, self._tags = experiment_name, run_name, tags
        self._every, self._log_model = log_every_n_steps, log_model
        self._training: training.Training | None = None
        self._batches = 0
        self._fitting = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Join or begin the run; log the optimizer's settings and the model's summary."""
        self._training = training.Training("Keras", self._experiment_name, self._run_name, tags=self._tags)
        self._batches, self._fitting = 0, True
        run = self._training.run
        training.log_params(run, self.model.optimizer.get_config(), prefix="optimizer_")
        training.log_params(run, {key: value for key, value in self.params.items() if key != "verbose"})
        lines: list[str] = []
        self.model.summary(print_fn=lambda line, **_: lines.append(line))
        run.log_text("\n".join(lines), "model_summary.txt")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the metrics of every n-th batch, if asked to."""
        self._batches += 1
        if self._every and self._training is not None and self._batches % self._every == 0:
            training.log_numbers(self._training.run, logs or {}, self._batches, prefix="batch/")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics, those of the validation included."""
        if self._training is not None:
            training.log_numbers(self._training.run, logs or {}, epoch)

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Log what ``evaluate`` found, as ``validation_<name>``; the fit's own validation is in its epochs."""
        if not self._fitting:
            self._training = self._training or training.Training("Keras", self._experiment_name, self._run_name)
            training.log_numbers(self._training.run, logs or {}, None, prefix="validation_")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Log the model, if asked to; end the run, if it is this callback's own."""
        self._fitting = False
        if self._training is None:
            return
        if self._log_model:
            with self._training.run.artifact_path("model.keras") as path:
                self.model.save(path)
        self._training.end()
