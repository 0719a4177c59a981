"""scikit-learn: ``fit(estimator, X, y)`` fits in a run; ``LiveScoring`` logs a search's scores as they come.

Needs ``scikit-learn``. Nothing is patched and MLflow is not imported. MLflow's ``autolog`` logs a search's candidates
when the whole search is over, and five of them; here each score is logged by the process that computed it (``n_jobs``
included) and outlives a kill, and at the end every candidate has a run of its own.

Source: mlflow.sklearn of 3.17, for names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import joblib
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring

from trainspool import active, fluent
from trainspool.entities import Experiment
from trainspool.integrations import training
from trainspool.run import Run
from trainspool.texts import reason_of

_Estimator = TypeVar("_Estimator", bound=Any)

# What iterative estimators remember of their training, one number per iteration, and the metric it becomes.
_CURVES = {"loss_curve_": "loss", "train_score_": "train_score", "validation_scores_": "validation_score"}
_SCALARS = (str, int, float, bool, type(None))
_CELLS = (*_SCALARS, tuple, list)


def fit(
    estimator: _Estimator,
    X: Any,
    y: Any = None,
    *,
    experiment_name: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    log_model: bool = True,
    **fit_params: Any,
) -> _Estimator:
    """Fit *estimator* and return it; what it was fitted with and what came of it is a run.

    The run is the active one, or one begun here and ended with the fit: FAILED if the fit raises, with the reason.
    Logged are the params, the score on the training data, the time, what an iterative estimator remembers of each
    iteration (of a search: its best estimator), and for a search (``GridSearchCV``, …) the best params and score, and
    every candidate as a nested run.

    Args:
        X: shape (n_samples, n_features), or what the estimator takes.
        y: shape (n_samples,) or (n_samples, n_outputs); None if there is no target.
        experiment_name: of a run begun here; None: as ``set_experiment`` or TRAINSPOOL_EXPERIMENT say.
        run_name: of a run begun here; None: generated.
        tags: of the run.
        log_model: log the fitted estimator, as ``model.joblib``.
        fit_params: for ``estimator.fit``.
    """
    session = training.Training("scikit-learn", experiment_name, run_name, tags=tags)
    run = session.run
    kind = type(estimator)
    run.set_tags({"estimator_name": kind.__name__, "estimator_class": f"{kind.__module__}.{kind.__qualname__}"})
    training.log_params(run, estimator.get_params(deep=True))
    begun = time.perf_counter()
    try:
        estimator.fit(X, y, **fit_params)
    except BaseException as error:
        session.end("FAILED", reason_of(error))
        raise
    run.log_metric("fit_seconds", time.perf_counter() - begun)
    _log_fitted(run, estimator, X, y)
    if log_model:
        with run.artifact_path("model.joblib") as path:
            joblib.dump(estimator, path)
    session.end()
    return estimator


def _log_fitted(run: Run, estimator: Any, X: Any, y: Any) -> None:
    fitted = getattr(estimator, "best_estimator_", estimator)
    if hasattr(fitted, "score"):
        score = fitted.score(X) if y is None else fitted.score(X, y)
        training.log_numbers(run, {"training_score": score}, None)
    final = fitted[-1] if hasattr(fitted, "steps") else fitted
    for attribute, key in _CURVES.items():
        for step, value in enumerate(getattr(final, attribute, None) or []):
            training.log_numbers(run, {key: value}, step)
    if hasattr(estimator, "cv_results_"):
        _log_search(run, estimator)


def _log_search(run: Run, search: Any) -> None:
    if hasattr(search, "best_params_"):
        training.log_params(run, search.best_params_, prefix="best_")
    if hasattr(search, "best_score_"):
        training.log_numbers(run, {"best_cv_score": search.best_score_}, None)
    results = search.cv_results_
    for number, params in enumerate(results["params"]):
        candidate = fluent.new_run(run.experiment.name, f"candidate {number}", {fluent.PARENT: run.run_id})
        training.log_params(candidate, params)
        for column, values in results.items():
            _log_column(candidate, column, values[number])
        candidate.end()


def _log_column(candidate: Run, column: str, value: Any) -> None:
    """``split2_test_score`` is the point of step 2 of ``split_test_score``; ``mean_test_score`` is itself."""
    split, _, rest = column.partition("_")
    if split[:5] == "split" and split[5:].isdigit():
        training.log_numbers(candidate, {f"split_{rest}": value}, int(split[5:]))
    elif not column.startswith("param"):
        training.log_numbers(candidate, {column: value}, None)


class LiveScoring:
    """A ``scoring=`` for searches and cross-validation that logs every score when it is computed, where it is.

    ``GridSearchCV(model, grid, scoring=LiveScoring("roc_auc"), n_jobs=8)``. It logs to the run that is active when
    the search begins: a point ``cv/<name>`` whose step counts the scores of one process, and a row of the table
    ``cv_scores.json`` with the candidate's params. A copy in a worker process (loky, multiprocessing) logs to the same
    run; one that was pickled with the search, and is used by another program, logs to that program's active run.

    Args:
        scoring: as scikit-learn takes it: a name, a callable, several names (then ``refit`` is to name one), or None.
    """

    def __init__(self, scoring: Any = None) -> None:
        self._scoring = scoring
        self._where: tuple[int, str, Experiment, str] | None = None  # of a copy: whose, and the run there
        self._guest: Run | None = None
        self._scored = 0

    def __call__(self, estimator: BaseEstimator, X: Any, y: Any = None, **params: Any) -> Any:
        scorer = check_scoring(estimator, scoring=self._scoring)
        scores = scorer(estimator, X, **params) if y is None else scorer(estimator, X, y, **params)
        run = self._run()
        if run is not None:
            name = self._scoring if isinstance(self._scoring, str) else "score"
            self._log(run, estimator, scores if isinstance(scores, dict) else {name: scores}, len(X))
        return scores

    def _log(self, run: Run, estimator: BaseEstimator, scores: Mapping[str, Any], samples: int) -> None:
        training.log_numbers(run, scores, self._scored, prefix="cv/")
        self._scored += 1
        params = {key: value for key, value in estimator.get_params().items() if isinstance(value, _CELLS)}
        candidate = {key: value if isinstance(value, _SCALARS) else str(value) for key, value in params.items()}
        numbers = {name: training.number(score) for name, score in scores.items()}
        run.log_table({**candidate, **numbers, "samples": samples, "time": time.time()}, "cv_scores.json")

    def _run(self) -> Run | None:
        if self._where is None or self._where[0] != os.getppid():
            return active.current()
        if self._guest is None:
            _, run_id, experiment, store = self._where
            self._guest = Run(run_id, experiment, store, name=run_id, user="", owner=False)
        return self._guest

    def __getstate__(self) -> dict[str, Any]:
        run = self._run()
        where = None if run is None else (os.getpid(), run.run_id, run.experiment, run.store)
        return {"_scoring": self._scoring, "_where": where, "_guest": None, "_scored": 0}
