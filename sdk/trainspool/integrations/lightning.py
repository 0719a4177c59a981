"""Lightning's ``Logger``: ``Trainer(logger=TrainspoolLogger("digits"))``. Needs ``lightning`` or ``pytorch-lightning``.

Params, metrics and checkpoints have the names that Lightning's ``MLFlowLogger`` gives them. What differs: a log call
takes microseconds, and its point outlives the process; a training that fails, is interrupted or killed has a run that
says so; the run is the process's active run, so the fluent functions log to it as well.

Source: lightning.pytorch.loggers.mlflow of 2.6, for names and layout.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from trainspool.integrations import training
from trainspool.run import Run
from trainspool.texts import reason_of

_THE_OTHER_IS_IN_USE = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules

if _THE_OTHER_IS_IN_USE or find_spec("lightning") is None:  # one library under two names
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
    from pytorch_lightning.utilities import rank_zero_only
else:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    from lightning.pytorch.utilities import rank_zero_only

_OF_A_CHECKPOINT = (
    "monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps", "_every_n_val_epochs",
)  # fmt: skip


class TrainspoolLogger(Logger):
    """Logs a Lightning training to a run: the active one, or one of its own that ends with the training.

    Args:
        experiment_name: of a run begun here; None: as ``set_experiment`` or TRAINSPOOL_EXPERIMENT say.
        run_name: of a run begun here; None: generated.
        run_id: go on with this run instead.
        tags: of the run.
        prefix: stands before every metric's name, with a dash.
        log_model: "all": every checkpoint when it is saved; True: the best and the last at the end (all, if
            ``save_top_k`` is -1); False: none. Each is ``<name>/<name>.ckpt`` beside ``metadata.yaml`` and
            ``aliases.txt``.
        save_dir: where Lightning puts its checkpoints; None: the trainer's ``default_root_dir``.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        prefix: str = "",
        log_model: Literal["all"] | bool = False,
        save_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self._experiment_name = training.checked(experiment_name)
        self._run_name, self._run_id = run_name, run_id
        self._tags, self._prefix, self._log_model = tags, prefix, log_model
        self._save_dir = None if save_dir is None else os.fspath(save_dir)
        self._training: training.Training | None = None
        self._checkpoints: ModelCheckpoint | None = None
        self._logged: dict[str, float] = {}  # checkpoints by path, and the file's time when it was logged

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        """The run, begun when first asked for: ``self.logger.experiment.log_figure(...)``. Of rank 0 only."""
        if self._training is None:
            names = (self._experiment_name, self._run_name)
            self._training = training.Training("", *names, run_id=self._run_id, tags=self._tags)
            run = self._training.run
            self._run_id, self._experiment_name = run.run_id, run.told_experiment.name or self._experiment_name
        return self._training.run

    def _logging(self) -> Run:
        """Return the run to log to; if it has ended (``test`` after ``fit``), it goes on as a further attempt."""
        if self._training is not None and self._training.ended:
            self._training = None
        run: Run = self.experiment
        return run

    @property
    def name(self) -> str | None:
        """The experiment's name."""
        return self._experiment_name

    @property
    def version(self) -> str | None:
        """The run's id; None before it has begun, and on other ranks than 0."""
        return self._run_id

    @property
    def run_id(self) -> str | None:
        """The run's id."""
        return self._run_id

    @property
    def save_dir(self) -> str | None:
        """Where Lightning puts its checkpoints; the run's own files are the agent's to write."""
        return self._save_dir

    @rank_zero_only
    @training.shielded
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None, *args: Any, **kwargs: Any) -> None:
        """Log params; nested ones as ``optimizer/lr``."""
        named = vars(params) if isinstance(params, Namespace) else params or {}
        training.log_params(self._logging(), training.flat(named))

    @rank_zero_only
    @training.shielded
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; Lightning calls this every ``log_every_n_steps``, 1 of which costs nothing here."""
        prefix = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        training.log_numbers(self._logging(), metrics, step, prefix=prefix)

    @rank_zero_only
    @training.shielded
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log checkpoints as *log_model* says; captured when this returns, so Lightning may delete them."""
        if self._log_model == "all" or (self._log_model and checkpoint_callback.save_top_k == -1):
            self._log_checkpoints(checkpoint_callback)
        elif self._log_model:
            self._checkpoints = checkpoint_callback

    @rank_zero_only
    @training.shielded
    def finalize(self, status: str) -> None:
        """Log the last checkpoints and end the run, if it is this logger's own; FAILED if *status* says so."""
        if self._training is None:
            return
        error = sys.exc_info()[1]  # Lightning calls this while it handles what was raised
        try:
            if self._checkpoints is not None:
                self._log_checkpoints(self._checkpoints)
        finally:
            if status == "failed":
                self._training.end("FAILED", reason_of(error) or "the training failed")
            else:
                self._training.end()

    def _log_checkpoints(self, callback: ModelCheckpoint) -> None:
        scores: dict[str, Any] = {
            callback.last_model_path: callback.current_score,
            callback.best_model_path: callback.best_model_score,
            **callback.best_k_models,
        }
        present = {path: os.path.getmtime(path) for path in scores if os.path.isfile(path)}
        for path, changed in sorted(present.items(), key=lambda one: (one[1], one[0])):
            if self._logged.get(path) != changed:
                self._log_checkpoint(callback, path, training.number(scores[path]))
                self._logged[path] = changed

    def _log_checkpoint(self, callback: ModelCheckpoint, path: str, score: float | None) -> None:
        run: Run = self.experiment
        file = os.path.basename(path)
        folder = os.path.splitext(file)[0]
        settings = {key: getattr(callback, key) for key in _OF_A_CHECKPOINT if hasattr(callback, key)}
        aliases = ["latest", "best"] if path == callback.best_model_path else ["latest"]
        run.log_artifact(path, folder)
        about = {"score": score, "original_filename": file, "Checkpoint": settings}
        run.log_dict(about, f"{folder}/metadata.yaml")
        run.log_text(str(aliases), f"{folder}/aliases.txt")
