"""scikit-learn: ``fit(estimator, X, y)`` fits in a run; ``LiveScoring`` logs a search's scores as they come.

Needs ``scikit-learn``. Nothing is patched and MLflow is not imported. MLflow's ``autolog`` logs a search's candidates
when the whole search is over, and five of them; here each score is logged by the process that computed it (``n_jobs``
included) and outlives a kill, and at the end every candidate has a run of its own.

Source: mlflow.sklearn of 3.17, for names.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import joblib
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring

from trainspool import active, ancestry, starting
from trainspool.complaints import warn
from trainspool.entities import Experiment
from trainspool.integrations import training
from trainspool.run import Run
from trainspool.texts import reason_of

_Estimator = TypeVar("_Estimator", bound=Any)

# What iterative estimators remember of their training, one number per iteration, and the metric it becomes.
_CURVES = {"loss_curve_": "loss", "train_score_": "train_score", "validation_scores_": "validation_score"}
_SCALARS = (str, int, float, bool, type(None))
_CELL_ITEMS_MAX, _CELL_CHARACTERS_MAX = 32, 250


def fit(
    estimator: _Estimator,
    X: Any,
    y: Any = None,
    *,
    experiment_name: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    log_model: bool = True,
    log_score: bool = True,
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
        log_score: have the fitted estimator score the training data, which takes its time.
        fit_params: for ``estimator.fit``.
    """
    session = training.Training("", training.checked(experiment_name), run_name, tags=tags)
    run = session.run
    with training.reporting(run, "what is fitted"):
        _log_estimator(run, estimator)
    begun = time.perf_counter()
    try:
        estimator.fit(X, y, **fit_params)
        run.log_metric("fit_seconds", time.perf_counter() - begun)
        if log_model:
            with training.reporting(run, "the model"):
                _log_model(run, estimator)
        with training.reporting(run, "what was fitted"):
            _log_fitted(run, estimator)
        if log_score:
            with training.reporting(run, "the score"):
                _log_score(run, estimator, X, y)
    except BaseException as error:
        session.end("FAILED", reason_of(error))
        raise
    session.end()
    return estimator


def _log_estimator(run: Run, estimator: Any) -> None:
    kind = type(estimator)
    run.set_tags({"estimator_name": kind.__name__, "estimator_class": f"{kind.__module__}.{kind.__qualname__}"})
    training.log_params(run, estimator.get_params(deep=True))


def _log_model(run: Run, estimator: Any) -> None:
    with run.artifact_path("model.joblib") as path:
        joblib.dump(estimator, path)


def _log_fitted(run: Run, estimator: Any) -> None:
    final = _best(estimator)
    final = final[-1] if hasattr(final, "steps") else final
    for attribute, key in _CURVES.items():
        curve = getattr(final, attribute, None)
        for step, value in enumerate(() if curve is None else curve):
            training.log_numbers(run, {key: value}, step)
    if hasattr(estimator, "cv_results_"):
        _log_search(run, estimator)


def _log_score(run: Run, estimator: Any, X: Any, y: Any) -> None:
    best = _best(estimator)
    if hasattr(best, "score"):
        training.log_numbers(run, {"training_score": best.score(X) if y is None else best.score(X, y)}, None)


def _best(estimator: Any) -> Any:
    """Return a search's best estimator; of a search that has none, and of all else, *estimator*."""
    return getattr(estimator, "best_estimator_", estimator)


def _log_search(run: Run, search: Any) -> None:
    if hasattr(search, "best_params_"):
        training.log_params(run, search.best_params_, prefix="best_")
    if hasattr(search, "best_score_"):
        training.log_numbers(run, {"best_cv_score": search.best_score_}, None)
    results = search.cv_results_
    for number, params in enumerate(results["params"]):
        experiment = run.told_experiment.name or None
        candidate = starting.new_run(experiment, f"candidate {number}", {starting.PARENT: run.run_id})
        training.log_params(candidate, params)
        for column, values in results.items():
            _log_column(candidate, column, values[number])
        active.end(candidate, "FINISHED")


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
    ``cv_scores.json`` with the candidate's params. Any thread; a copy in a worker process, or in a program that this
    one started, logs to the same run unless a run is active there.

    Args:
        scoring: as scikit-learn takes it: a name, a callable, several names (then ``refit`` is to name one), or None.
    """

    def __init__(self, scoring: Any = None) -> None:
        self._scoring = scoring
        self._origin: _Origin | None = None  # of a copy

    def __call__(self, estimator: BaseEstimator, X: Any, y: Any = None, **params: Any) -> Any:
        scorer = check_scoring(estimator, scoring=self._scoring)
        scores = scorer(estimator, X, **params) if y is None else scorer(estimator, X, y, **params)
        run = active.current() or _run_of(self._origin)
        if run is None:
            _say_once_that_no_run_is_active()
            return scores
        name = self._scoring if isinstance(self._scoring, str) else "score"
        # scikit-learn would take what is raised here for a candidate that cannot be scored.
        with training.reporting(run, "a score"):
            _log_scores(run, estimator, scores, name, X)
        return scores

    def __getstate__(self) -> dict[str, Any]:
        run = active.current()
        origin = self._origin if run is None else _Origin(os.getpid(), run.run_id, run.told_experiment, run.store)
        return {"_scoring": self._scoring, "_origin": origin}


class _Origin(NamedTuple):
    """Where a copy comes from: the process, and the run that was active there."""

    pid: int
    run_id: str
    experiment: Experiment
    store: str


_guests: dict[str, Run] = {}  # of this process, a worker: the runs that its copies log to, by id
_counts: WeakKeyDictionary[Run, Iterator[int]] = WeakKeyDictionary()


def _log_scores(run: Run, estimator: BaseEstimator, scores: Any, name: str, X: Any) -> None:
    named = scores if isinstance(scores, Mapping) else {name: scores}
    training.log_numbers(run, named, next(_counts.setdefault(run, itertools.count())), prefix="cv/")
    candidate = {key: _cell(value) for key, value in estimator.get_params().items()}
    numbers = {key: training.number(score) for key, score in named.items()}
    samples = int(X.shape[0]) if hasattr(X, "shape") else len(X)
    run.log_table({**candidate, **numbers, "samples": samples, "time": time.time()}, "cv_scores.json")


def _cell(value: Any) -> Any:
    """Return a param as a table's cell: itself if JSON has it, else as text, which does not grow with it."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, (list, tuple, set, dict)) and len(value) > _CELL_ITEMS_MAX:
        return f"<{type(value).__name__} of {len(value)}>"
    number = training.number(value)
    return training.text(value)[:_CELL_CHARACTERS_MAX] if number is None else number


def _run_of(origin: _Origin | None) -> Run | None:
    if origin is None or not _descends_from(origin.pid):
        return None
    run = _guests.get(origin.run_id)
    if run is None:
        run = Run(origin.run_id, origin.experiment, origin.store, name=origin.run_id, user="", owner=False)
        _guests[origin.run_id] = run
    return run


@functools.lru_cache(maxsize=64)
def _descends_from(pid: int) -> bool:
    return ancestry.descends(os.getpid(), pid)


@functools.lru_cache(maxsize=1)
def _say_once_that_no_run_is_active() -> None:
    warn("LiveScoring: no run is active, and scores are not logged. Next: with trainspool.start_run(): …")


def _after_fork_in_child() -> None:
    _guests.clear()
    _descends_from.cache_clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
