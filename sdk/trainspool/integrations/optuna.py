"""Optuna: a run per trial. ``study.optimize(trials.track(objective), callbacks=[trials])``. Needs ``optuna``.

Params, tags and metrics have the names that Optuna's own ``MLflowCallback`` gives them (it is deprecated and leaves
Optuna with 6.0). What differs: a tracked trial's run is there from the trial's beginning, so that a killed one is
KILLED and keeps what it logged; trials run side by side (``n_jobs``) do not wait for each other; a trial that failed
has a FAILED run; intermediate values are logged at their steps.

Source: optuna_integration.mlflow of 5.0, for names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from trainspool import active, starting, validation
from trainspool.errors import TrainspoolException
from trainspool.integrations import training
from trainspool.run import Run
from trainspool.texts import reason_of

_Objective = Callable[[optuna.Trial], Any]


class Trials:
    """A run for every trial of a study. Any thread: trials may run side by side.

    Args:
        metric_name: of the objective's value; several names for several values, or one, numbered (``value_0``, …).
        experiment_name: where the runs go; None: where the run is that they are nested in, else the experiment named
            after the study.
        tags: of every run.
        tag_study_user_attrs: the study's user attributes are tags too; they win over the trial's.
        tag_trial_user_attrs: the trial's user attributes are tags too.

    Raises:
        TrainspoolException: a name that cannot be one.
    """

    def __init__(
        self,
        metric_name: str | Sequence[str] = "value",
        *,
        experiment_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        tag_study_user_attrs: bool = False,
        tag_trial_user_attrs: bool = True,
    ) -> None:
        for name in [metric_name] if isinstance(metric_name, str) else metric_name:
            validation.check_key(name)
        self._metric_name, self._experiment_name, self._tags = metric_name, training.checked(experiment_name), tags
        self._of_the_study, self._of_the_trial = tag_study_user_attrs, tag_trial_user_attrs
        self._runs: dict[tuple[str, int], Run] = {}  # of trials that are under way, by study and number

    def track(self, objective: _Objective) -> _Objective:
        """Return *objective* with a run of its own around each call, the active one of its thread.

        It is nested in the run that is active, or was handed over, as a search that is itself a run has it. Give this
        object to ``optimize`` as a callback, too: it ends the run with the trial's outcome. Called outside a study
        (``FixedTrial``, a frozen trial), the objective is left as it is.
        """

        @functools.wraps(objective)
        def tracked(trial: optuna.Trial) -> Any:
            study = getattr(trial, "study", None)
            if study is None:
                return objective(trial)
            run = self._runs[study.study_name, trial.number] = self._new_run(study, trial.number)
            active.push(run)
            try:
                return objective(trial)
            except optuna.TrialPruned:
                raise
            except BaseException as error:
                # Optuna asks its callbacks only where it was told to catch this; the run is not to wait for that.
                active.end(run, "FAILED", reason_of(error))
                training.log_params(run, trial.params)
                raise
            finally:
                active.release(run)

        return tracked

    def __call__(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Log a trial's outcome and end its run; begun now if the objective was not tracked.

        Raises:
            TrainspoolException: the objective returned another number of values than there are names.
        """
        run = self._runs.pop((study.study_name, trial.number), None) or self._new_run(study, trial.number)
        failed = trial.state == optuna.trial.TrialState.FAIL
        try:
            training.log_params(run, trial.params)
            for step, value in sorted(trial.intermediate_values.items()):
                training.log_numbers(run, {"intermediate_value": value}, step)
            run.set_tags(self._outcome(study, trial))
            run.log_metrics(self._named(trial.values))
        finally:
            # Of a tracked objective that raised the run has ended, with the reason.
            active.end(run, *(("FAILED", "it raised, or returned no number") if failed else ("FINISHED",)))

    def _new_run(self, study: optuna.Study, number: int) -> Run:
        """Begin a trial's run below the run that this thread is in, else the process's, else the one handed over."""
        own = active.own_stack()
        above = own[-1] if own else training.outer_run()
        handed = None if above is not None else starting.handed_run_id()
        parent = handed if above is None else above.run_id
        tags = {**(self._tags or {}), **({starting.PARENT: parent} if parent else {})}
        experiment = self._experiment_name or (above.told_experiment.name if above is not None else None)
        if experiment is None and handed is None:
            experiment = study.study_name.replace("'", "_")[: validation.EXPERIMENT_NAME_CHARACTERS_MAX]
        run = starting.new_run(experiment or None, str(number), tags)
        training.trials.add(run)
        return run

    def _named(self, values: Sequence[float] | None) -> dict[str, float]:
        """Return the objective's values by name.

        Raises:
            TrainspoolException: there are other names than values.
        """
        if values is None:
            return {}
        if not isinstance(self._metric_name, str):
            if len(self._metric_name) != len(values):
                what = f"the objective returned {len(values)} values, metric_name has {len(self._metric_name)} names"
                raise TrainspoolException(f"{what}. Next: Trials(metric_name=[...]) with a name for each, or one name")
            return dict(zip(self._metric_name, values, strict=True))
        if len(values) == 1:
            return {self._metric_name: values[0]}
        return {f"{self._metric_name}_{number}": value for number, value in enumerate(values)}

    def _outcome(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        directions = [direction.name for direction in study.directions]
        tags: dict[str, Any] = {
            "number": trial.number,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
            "state": trial.state.name,
            "direction": directions if len(directions) != 1 else directions[0],
        }
        tags |= {f"{name}_distribution": distribution for name, distribution in trial.distributions.items()}
        tags |= trial.user_attrs if self._of_the_trial else {}
        tags |= study.user_attrs if self._of_the_study else {}
        return {training.key_of(name): training.text(value) for name, value in tags.items()}
