"""A run per trial, beside Optuna's own MLflowCallback on the same study; trials side by side; one that is killed."""

from __future__ import annotations

import pytest
from box import FAILED, FINISHED, KILLED, SHARED_MEMORY, Box, until
from conformance.integrations.compare import carried, runs_of, said_of

pytest.importorskip("optuna")
pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

STUDY = """
import mmap, os, sys, threading, warnings; warnings.filterwarnings("ignore")
import optuna
import trainspool as mlflow
from trainspool.integrations.optuna import Trials
optuna.logging.set_verbosity(optuna.logging.ERROR)
def study(name, **others):
    return optuna.create_study(study_name=name, sampler=optuna.samplers.RandomSampler(seed=0), **others)
"""

BOTH = """
import mlflow as stock
from optuna_integration.mlflow import MLflowCallback
stock.set_tracking_uri("file:stock")
def asked(trial):
    trial.set_user_attr("seen", trial.number * 2)
    trial.suggest_categorical("kind", ["a", "b"])
    return trial.suggest_float("x", -1, 1)
def one_value(trial):
    x = asked(trial)
    trial.report(x, 3)
    if trial.number == 2:
        raise optuna.TrialPruned
    return x * x
def two_values(trial):
    x = asked(trial)
    if trial.number == 2:
        raise RuntimeError("of the objective")
    return x * x, x
trials = Trials(tag_study_user_attrs=True)
# The second is not tracked: its runs begin when the trials are over.
for objective, directions in ((trials.track(one_value), ["maximize"]), (two_values, ["minimize", "maximize"])):
    one = study(objective.__name__, directions=directions)
    one.set_user_attr("team", "b")
    theirs = MLflowCallback(tag_study_user_attrs=True)
    one.optimize(objective, n_trials=4, callbacks=[trials, theirs], catch=(RuntimeError,))
"""


@pytest.fixture(scope="module")
def both(box: Box) -> Box:
    pytest.importorskip("optuna_integration")
    done = box.run(STUDY + BOTH)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    return box


@pytest.mark.parametrize("name", ["one_value", "two_values"])
def test_params_tags_metrics_are_those_of_optunas_mlflow_callback(both: Box, name: str) -> None:
    ours, theirs = ([said_of(run) for run in runs_of(root, name)] for root in (both.store, both.folder / "stock"))
    assert len(ours) == 4
    reported = [one["metrics"].pop("intermediate_value", None) for one in ours]
    if name == "one_value":
        assert [[step for step, _ in points or []] for points in reported] == [[3]] * 4
    pruned_or_failed = FINISHED if name == "one_value" else FAILED
    assert [one.pop("status") for one in ours] == [FINISHED, FINISHED, pruned_or_failed, FINISHED]
    assert [one.pop("status") for one in theirs] == [FINISHED] * 4  # theirs says so of a failed trial as well
    assert ours == theirs


SIDE_BY_SIDE = """
beside = threading.Barrier(2, timeout=60)
trials = Trials("score")
@trials.track
def objective(trial):
    mlflow.log_metric("live", trial.number, step=trial.number)  # to the run of this thread's trial
    beside.wait()
    return trial.suggest_float("x", 0, 1)
with mlflow.start_run(run_name="search"):
    study("side by side").optimize(objective, n_trials=6, n_jobs=2, callbacks=[trials])
"""


def test_trials_side_by_side_do_not_wait_for_each_other_and_are_below_the_search(box: Box) -> None:
    done = box.run(STUDY + SIDE_BY_SIDE, TRAINSPOOL_EXPERIMENT="side by side")
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    *trials, search = runs_of(box.store, "side by side")
    assert [run.meta["run_name"] for run in trials] == list("012345") and search.meta["run_name"] == "search"
    for number, run in enumerate(trials):
        assert run.texts("tags")["mlflow.parentRunId"] == search.run_id
        assert [(value, step) for _, value, step in run.points("live")] == [(str(float(number)), number)]
        assert len(run.points("score")) == 1
    assert not (search.folder / "metrics/live").exists()


BESIDE = """
trials = Trials()
@trials.track
def objective(trial):
    beside.wait()
    return trial.suggest_float("x", 0, 1) if trial.number else float("nan")
beside = threading.Barrier(2, timeout=60)
def search(name):
    mine = Trials()
    study(name).optimize(mine.track(objective.__wrapped__), n_trials=2, callbacks=[mine])
searches = [threading.Thread(target=search, args=(name,)) for name in ("beside a", "beside b's")]
for one in searches:
    one.start()
for one in searches:
    one.join()
beside = threading.Barrier(1)
one = study("handed over")
one.optimize(objective, n_trials=2, callbacks=[trials])
assert objective(one.best_trial) == one.best_value == objective(optuna.trial.FixedTrial(one.best_params, number=1))
assert mlflow.active_run() is None
"""


def test_studies_side_by_side_are_not_below_each_other_and_trials_are_below_the_run_handed_over(box: Box) -> None:
    done = box.run(STUDY + BESIDE, TRAINSPOOL_EXPERIMENT="handed", TRAINSPOOL_RUN_ID="feed" * 8)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    runs = runs_of(box.store, "handed")
    assert len(runs) == 6
    assert {run.texts("tags").get("mlflow.parentRunId") for run in runs} == {"feed" * 8}
    assert [run.status for run in runs] == [FAILED] * 3 + [FINISHED] * 3
    assert "returned no number" in runs[0].texts("tags")["trainspool.end_reason"]


ENDS_BADLY = """
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
trials = Trials()
@trials.track
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 1:
        raise ValueError("of the objective")
    for step in range(10**9 if trial.number == 2 else 10):
        mlflow.log_metric("loss", x, step=step)
        words[trial.number] = step + 1
    return x
study("ends badly").optimize(objective, n_trials=3, callbacks=[trials], catch=(ValueError,))
"""


def test_a_trial_that_raises_is_failed_and_one_that_is_killed_is_killed_with_all_it_logged(box: Box) -> None:
    witness = box.witness()
    process = box.start(STUDY + ENDS_BADLY, witness.path)
    until(lambda: witness[2] > 300, "300 points of the third trial")
    process.kill()
    process.wait()
    logged = witness[2]

    def statuses() -> list[int]:
        return [run.status for run in runs_of(box.store, "ends badly")]

    until(lambda: statuses() == [FINISHED, FAILED, KILLED], "the runs are marked")
    _, failed, killed = runs_of(box.store, "ends badly")
    assert failed.texts("tags")["trainspool.end_reason"] == "ValueError: of the objective"
    assert failed.texts("params").keys() == {"x"} and failed.texts("tags")["state"] == "FAIL"
    assert [step for _, _, step in killed.points("loss")][:logged] == list(range(logged))
