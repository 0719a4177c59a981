"""Fits in runs; a search whose scores are logged by its workers as they come, and kept over a kill."""

from __future__ import annotations

import io
import json

import joblib
import pytest
from box import FAILED, FINISHED, KILLED, SHARED_MEMORY, Box, until
from conformance.integrations.compare import carried, runs_of, said_of

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

HEAD = """
import os, pickle, sys, warnings; warnings.filterwarnings("ignore")
import numpy
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import trainspool as mlflow
from trainspool.integrations.sklearn import LiveScoring, fit
X, y = load_iris(return_X_y=True)
"""

SEARCH = """
search = GridSearchCV(LogisticRegression(max_iter=300), {"C": [0.1, 1.0, 10.0]}, cv=4, n_jobs=2,
                      scoring=LiveScoring("accuracy"))
with mlflow.start_run(run_name="search"):
    fit(search, X, y)
results = search.cv_results_
print(search.best_score_, *results["mean_test_score"], *(results[f"split{n}_test_score"][1] for n in range(4)))
later = pickle.loads(pickle.dumps(search))
later.score(X, y)  # the process's run has ended: nothing is logged, and nothing is begun for it
assert mlflow.active_run() is None
"""


def test_a_search_has_every_candidate_as_a_nested_run_and_every_score_as_it_came(box: Box) -> None:
    done = box.run(HEAD + SEARCH, TRAINSPOOL_EXPERIMENT="sk search")
    assert done.returncode == 0, done.stderr[-3000:]
    best, *numbers = map(float, done.stdout.split())
    carried(box)
    *candidates, search = runs_of(box.store, "sk search")
    said = said_of(search)
    assert said["status"] == FINISHED and said["params"]["best_C"] in ("0.1", "1.0", "10.0")
    assert said["params"]["estimator__max_iter"] == "300" and said["tags"]["estimator_name"] == "GridSearchCV"
    assert said["metrics"]["best_cv_score"] == [(0, best)]
    assert [(run.status, run.texts("params"), run.texts("tags")["mlflow.parentRunId"]) for run in candidates] == [
        (FINISHED, {"C": c}, search.run_id) for c in ("0.1", "1.0", "10.0")
    ]
    assert [said_of(run)["metrics"]["mean_test_score"] for run in candidates] == [[(0, one)] for one in numbers[:3]]
    assert said_of(candidates[1])["metrics"]["split_test_score"] == list(enumerate(numbers[3:]))
    table = json.loads(search.artifacts()["cv_scores.json"])
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert sorted(row["C"] for row in rows) == [0.1] * 4 + [1.0] * 4 + [10.0] * 4
    assert sorted(row["accuracy"] for row in rows if row["C"] == 1.0) == sorted(numbers[3:])
    assert len(search.points("cv/accuracy")) == 12


FITS = """
fit(KMeans(3, n_init=1, random_state=0), X, run_name="clusters", tags={"team": "a"})
with mlflow.start_run(run_name="curve"):
    network = fit(make_pipeline(StandardScaler(), MLPClassifier(max_iter=20, random_state=0)), X, y)
    assert mlflow.active_run().info.status == "RUNNING"
numpy.save("network.npy", network.predict_proba(X))
numpy.save("curve.npy", network[-1].loss_curve_)
try:
    fit(LogisticRegression(C=-1.0), X, y, run_name="fails")
except ValueError:
    pass
fit(LogisticRegression(), X, y, run_name="plain", log_model=False)
"""


def test_a_fit_logs_params_score_curve_and_model_and_one_that_raises_is_failed(box: Box) -> None:
    done = box.run(HEAD + FITS, TRAINSPOOL_EXPERIMENT="sk fits")
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    clusters, curve, fails, plain = runs_of(box.store, "sk fits")
    assert said_of(clusters)["params"]["n_clusters"] == "3" and clusters.texts("tags")["team"] == "a"
    assert clusters.points("training_score")
    import numpy

    losses = numpy.load(box.folder / "curve.npy").tolist()
    assert [(step, float(value)) for _, value, step in curve.points("loss")] == list(enumerate(losses))
    network = joblib.load(io.BytesIO(curve.artifacts()["model.joblib"]))
    from sklearn.datasets import load_iris

    X, _ = load_iris(return_X_y=True)
    assert (network.predict_proba(X) == numpy.load(box.folder / "network.npy")).all()
    assert fails.status == FAILED and "InvalidParameterError" in fails.texts("tags")["trainspool.end_reason"]
    assert plain.status == FINISHED and plain.artifacts() == {}


ODD = """
from scipy.sparse import csr_matrix
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer
boosted = fit(GradientBoostingClassifier(n_estimators=5), X, y, run_name="boosted")
numpy.save("boosted.npy", boosted.train_score_)
grid = {"n_neighbors": numpy.arange(1, 4), "weights": ["uniform", "distance"]}
search = GridSearchCV(KNeighborsClassifier(), grid, cv=10, n_jobs=2, scoring=LiveScoring("accuracy"))
fit(search, csr_matrix(X), y, run_name="sparse")
assert search.best_score_ > 0.9
unpicklable = make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression(max_iter=300))
assert fit(unpicklable, X, y, run_name="unpicklable").score(X, y) > 0.9
several = GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0]}, scoring=["accuracy", "f1_macro"], refit=False)
fit(several, X, y, run_name="without refit")
assert mlflow.active_run() is None
GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0]}, scoring=LiveScoring()).fit(X, y)
"""


def test_what_cannot_be_logged_is_told_on_the_run_and_the_fit_is_kept(box: Box) -> None:
    import numpy

    done = box.run(HEAD + ODD, TRAINSPOOL_EXPERIMENT="sk odd")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "LiveScoring: no run is active" in done.stderr
    carried(box)
    runs = {run.meta["run_name"]: run for run in runs_of(box.store, "sk odd")}
    assert {run.status for run in runs.values()} == {FINISHED}
    curve = numpy.load(box.folder / "boosted.npy").tolist()
    assert [float(value) for _, value, _ in runs["boosted"].points("train_score")] == curve
    assert "the model" in runs["unpicklable"].texts("tags")["trainspool.problem"]
    table = json.loads(runs["sparse"].artifacts()["cv_scores.json"])
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert sorted(row["n_neighbors"] for row in rows) == [1] * 20 + [2] * 20 + [3] * 20
    assert {row["samples"] for row in rows} == {15}
    # Two processes' scores of the same step, value and millisecond are the same point.
    assert len(runs["sparse"].points("cv/accuracy")) + runs["sparse"].check_account()["folded"] == 60


ENDLESS = """
import mmap
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
class Counted(LiveScoring):
    def __call__(self, *arguments, **others):
        found = super().__call__(*arguments, **others)
        words[0] += 1
        return found
grid = {"C": numpy.linspace(0.1, 9, 10**5)}
fit(GridSearchCV(LogisticRegression(max_iter=50), grid, cv=2, scoring=Counted("accuracy")), X, y)
"""


def test_scores_of_a_search_that_is_killed_are_kept(box: Box) -> None:
    witness = box.witness()
    process = box.start(HEAD + ENDLESS, witness.path, TRAINSPOOL_EXPERIMENT="sk killed")
    until(lambda: witness[0] > 20, "20 scores")
    process.kill()
    process.wait()
    scored = witness[0]
    until(lambda: [run.status for run in runs_of(box.store, "sk killed")] == [KILLED], "the run is marked")
    (run,) = runs_of(box.store, "sk killed")
    assert len(run.points("cv/accuracy")) in (scored, scored + 1)
    until(lambda: "cv_scores.json" in run.artifacts(), "the table, which comes beside the points")
    until(lambda: len(json.loads(run.artifacts()["cv_scores.json"])["data"]) >= scored, "every row")
