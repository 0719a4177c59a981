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
from trainspool.run import Run


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
        self._experiment_name = training.checked(experiment_name)
        self._run_name, self._tags = run_name, tags
        self._every, self._log_model = log_every_n_steps, log_model
        self._training: training.Training | None = None
        self._evaluated: str | None = None  # the run of an evaluation that no fit came before
        self._batches = 0

    @training.shielded
    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Join or begin the run; log the optimizer's settings and the model's summary."""
        self._training = None
        run = self._begin(self._evaluated).run
        self._evaluated, self._batches = None, 0
        training.log_params(run, {key: value for key, value in self.params.items() if key != "verbose"})
        self._log_model_of(run)

    def _log_model_of(self, run: Run) -> None:
        with training.reporting(run, "the optimizer's settings"):
            if self.model.optimizer is not None:
                training.log_params(run, self.model.optimizer.get_config(), prefix="optimizer_")
        with training.reporting(run, "the model's summary"):
            lines: list[str] = []
            self.model.summary(print_fn=lambda line, **_: lines.append(line))
            run.log_text("\n".join(lines), "model_summary.txt")

    @training.shielded
    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the metrics of every n-th batch, if asked to."""
        self._batches += 1
        if self._every and self._training is not None and self._batches % self._every == 0:
            training.log_numbers(self._training.run, logs or {}, self._batches, prefix="batch/")

    @training.shielded
    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics, those of the validation included."""
        if self._training is not None:
            training.log_numbers(self._training.run, logs or {}, epoch)

    @training.shielded
    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Log what ``evaluate`` found, as ``validation_<name>``; the fit's own validation is in its epochs."""
        if self._training is not None and self._training.is_under_way():
            return
        alone = self._training is None
        run = self._begin(self._evaluated).run if self._training is None else self._training.run
        training.log_numbers(run, logs or {}, None, prefix="validation_")
        if alone and self._training is not None:  # ends here; a fit that follows goes on with it
            self._evaluated = run.run_id if self._training.began else None
            self._training.end()
            self._training = None

    @training.shielded
    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Log the model, if asked to; end the run, if it is this callback's own."""
        if self._training is None:
            return
        try:
            if self._log_model:
                with self._training.run.artifact_path("model.keras") as path:
                    self.model.save(path)
        finally:
            self._training.end()

    def _begin(self, run_id: str | None) -> training.Training:
        names = (self._experiment_name, self._run_name)
        self._training = training.Training("keras", *names, run_id=run_id, tags=self._tags)
        return self._training
