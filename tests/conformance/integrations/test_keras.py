"""TrainspoolCallback beside MLflow's MlflowCallback for Keras, in the same fit."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from box import FAILED, FINISHED, SHARED_MEMORY, Box
from conformance.integrations.compare import carried, runs_of, said_of, the_run

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    # Not importorskip: importing keras here would take the backend that the user's settings name.
    pytest.mark.skipif(not (find_spec("keras") and find_spec("torch")), reason="no keras with torch here"),
]

MODEL = """
import os, sys, warnings; warnings.filterwarnings("ignore")
import keras, numpy
import trainspool
from trainspool.integrations.keras import TrainspoolCallback
keras.utils.set_random_seed(0)
X = numpy.arange(256, dtype="float32").reshape(64, 4) / 256
y = numpy.arange(64) % 2
def model():
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made
def fit(made, *callbacks):
    return made.fit(X, y, batch_size=16, epochs=3, verbose=0, validation_data=(X, y), callbacks=list(callbacks))
"""

BOTH = """
import mlflow
mlflow.set_tracking_uri("file:stock")
mlflow.set_experiment("keras")
made = model()
with mlflow.start_run(run_name="named", tags={"team": "a"}):
    ours = TrainspoolCallback("keras", "named", tags={"team": "a"}, log_every_n_steps=2, log_model=True)
    fit(made, ours, mlflow.keras.MlflowCallback())
    made.evaluate(X, y, verbose=0, callbacks=[ours, mlflow.keras.MlflowCallback()])
numpy.save("predicted.npy", made.predict(X, verbose=0))
"""

LOADS = """
loaded = keras.models.load_model(sys.argv[1])
assert (loaded.predict(X, verbose=0) == numpy.load("predicted.npy")).all()
"""


@pytest.fixture(scope="module")
def both(box: Box) -> Box:
    done = box.run(MODEL + BOTH)
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    return box


def test_params_tags_and_metrics_of_epochs_are_those_of_mlflows_callback(both: Box) -> None:
    ours, theirs = (said_of(the_run(root, "keras")) for root in (both.store, both.folder / "stock"))
    batches = {key: ours["metrics"].pop(key) for key in list(ours["metrics"]) if key.startswith("batch/")}
    assert {key: [step for step, _ in points] for key, points in batches.items()} == {
        "batch/loss": [2, 4, 6, 8, 10, 12], "batch/accuracy": [2, 4, 6, 8, 10, 12],
    }  # fmt: skip
    assert ours["params"].pop("epochs") == "3" and ours["params"].pop("steps") == "4"
    # MLflow's callback also logs the validation of every epoch a second time, at step 0.
    final = {key: theirs["metrics"].pop(key)[-1:] for key in list(theirs["metrics"]) if key.startswith("validation_")}
    assert {key: ours["metrics"].pop(key) for key in final} == final
    assert ours == theirs


def test_the_logged_model_loads_and_predicts_the_same(both: Box) -> None:
    run = the_run(both.store, "keras")
    assert run.artifacts().keys() == {"model.keras", "model_summary.txt"}
    done = both.run(MODEL + LOADS, run.folder / "artifacts/model.keras")
    assert done.returncode == 0, done.stderr[-3000:]


FAILS = """
class Raises(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise ValueError("of a callback")
def fails(name):
    try:
        fit(model(), TrainspoolCallback("keras failing", name), Raises())
    except ValueError:
        pass
fails("first")
fit(model(), TrainspoolCallback("keras failing", "second"))
fails("third")
with trainspool.start_run(run_name="fourth"):  # the run of the third stands in nobody's way
    fit(model(), TrainspoolCallback(), TrainspoolCallback())
fails("fifth")  # and at the end of the process
"""


def test_a_fit_that_raises_has_a_failed_run_and_the_next_one_a_run_of_its_own(box: Box) -> None:
    done = box.run(MODEL + FAILS, TRAINSPOOL_EXPERIMENT="keras failing")
    assert done.returncode == 0, done.stderr[-3000:]
    carried(box)
    runs = {run.meta["run_name"]: run for run in runs_of(box.store, "keras failing")}
    assert {name: run.status for name, run in runs.items()} == {
        "first": FAILED, "second": FINISHED, "third": FAILED, "fourth": FINISHED, "fifth": FAILED,
    }  # fmt: skip
    assert [len(runs[name].points("loss")) for name in ("first", "second")] == [2, 3]
    assert runs["fifth"].texts("tags")["trainspool.end_reason"] == "the training did not come to its end"


ODD = """
import pickle
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01
made = model()
made.compile(keras.optimizers.Adam(Schedule()), "sparse_categorical_crossentropy", metrics=["accuracy"])
class Unsaveable(TrainspoolCallback):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        assert pickle.loads(pickle.dumps(self._training)) is None
        self.model.save = None
one = Unsaveable("keras odd", "odd", log_model=True)
made.evaluate(X, y, verbose=0, callbacks=[one])
assert trainspool.active_run() is None
fit(made, one)
made.evaluate(X, y, verbose=0, callbacks=[one])
"""


def test_what_cannot_be_logged_is_told_on_the_run_and_the_fit_comes_to_its_end(box: Box) -> None:
    done = box.run(MODEL + ODD)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "NotImplementedError" in done.stderr
    carried(box)
    run = the_run(box.store, "keras odd")
    assert run.status == FINISHED and len(run.points("loss")) == 3
    assert len(run.points("validation_loss")) == 2  # of before and after the fit
    assert "on_train_end" in run.texts("tags")["trainspool.problem"]
