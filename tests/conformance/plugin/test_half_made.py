"""An experiment that the agent is just making: its folder is there, its meta.yaml is not yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from box import FINISHED, SHARED_MEMORY, Box, until
from conformance.plugin.switched import run, said

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

# As when two processes, such as the trials of a search, make one experiment: this one looks while the other's is made.
MAKES = """
import os, mlflow
from trainspool.spool.experiments import experiment_id_for
mlflow.search_experiments()  # there is a store
os.mkdir(f"{os.environ['TRAINSPOOL_STORE']}/{experiment_id_for('trials')}")
experiment_id = mlflow.create_experiment("trials", tags={"team": "a"})
assert experiment_id == experiment_id_for("trials")
with mlflow.start_run(experiment_id=experiment_id) as run:
    mlflow.log_metric("loss", 1.0)
assert mlflow.get_experiment(experiment_id).tags == {"team": "a"}
print("RUN", run.info.run_id)
"""

WAITS = """
import os, mlflow
from trainspool.mlflow_plugin.store import store_at
here = mlflow.create_experiment("made by another")
with mlflow.start_run(experiment_id=here):
    pass
store = store_at(os.environ["TRAINSPOOL_STORE"])
files = store.folder.settled()
made, aside = (f"{store.root}/{here}/{name}" for name in ("meta.yaml", "aside"))
os.rename(made, aside)
store.experiments.changed(here)  # nothing is known of it here
look = files.get_experiment
def look_and_have_it_made(experiment_id):
    try:
        return look(experiment_id)
    finally:
        if os.path.exists(aside):
            os.rename(aside, made)
files.get_experiment = look_and_have_it_made
assert mlflow.get_experiment(here).name == "made by another"
del files.get_experiment
os.rename(made, aside)
store.experiments.changed(here)
try:
    mlflow.get_experiment(here)
except mlflow.MlflowException as error:
    print("SAID", error.error_code)
os.rename(aside, made)
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("half-made")) as made:
        made.start_agent()
        yield made


def test_an_experiment_is_made_where_another_process_is_just_making_it(box: Box) -> None:
    run_id = said(run(box, MAKES), "RUN")
    until(lambda: box.status_of(run_id) == FINISHED, "the run ends")


def test_an_experiment_that_is_half_made_is_waited_for_and_else_does_not_exist(box: Box) -> None:
    assert said(run(box, WAITS), "SAID") == "RESOURCE_DOES_NOT_EXIST"
