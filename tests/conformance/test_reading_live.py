"""Scripts that log, read and delete, with an agent that carries; MLflow reads the same afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        made.start_agent()
        yield made


def said_by(box: Box, program: str, *arguments: object, **environment: str) -> Any:
    """Run a script and return the JSON that it prints."""
    done = box.run(f"import json, os, sys\nimport trainspool as mlflow\n{program}", *arguments, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


LOGS_AND_READS = """
mlflow.set_experiment("live")
mlflow.set_experiment_tag("team", "vision")
with mlflow.start_run(run_name="parent") as parent:
    with mlflow.start_run(nested=True) as child:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metrics({"loss": 0.5, "acc": 0.9}, step=1)
        mlflow.log_metric("loss", float("nan"), step=2)
        mlflow.set_tag("note", "损失")
        during = mlflow.get_run(child.info.run_id)
    after = mlflow.get_run(child.info.run_id)
frame = mlflow.search_runs(filter_string="params.lr = '0.1'")
print(json.dumps({
    "during": [during.info.status, during.data.params, during.data.metrics["acc"], during.data.tags["note"]],
    "after": after.info.status,
    "found": list(frame["run_id"]) == [child.info.run_id],
    "acc": frame["metrics.acc"][0],
    "history": [[p.step, repr(p.value)] for p in mlflow.get_metric_history(child.info.run_id, "loss")],
    "parent": mlflow.get_parent_run(child.info.run_id).info.run_name,
    "last": mlflow.last_active_run().info.status,
    "tags": mlflow.get_experiment_by_name("live").tags["team"],
    "known": [one.name for one in mlflow.search_experiments(order_by=["name"])],
    "child": child.info.run_id,
}))
"""


def test_a_process_reads_what_it_has_just_written_and_a_fresh_one_too(box: Box) -> None:
    told = said_by(box, LOGS_AND_READS)
    child = told.pop("child")
    assert told == {
        "during": ["RUNNING", {"lr": "0.1"}, 0.9, "损失"],
        "after": "FINISHED",
        "found": True,
        "acc": 0.9,
        "history": [[1, "0.5"], [2, "nan"]],
        "parent": "parent",
        "last": "FINISHED",
        "tags": "vision",
        "known": ["Default", "live"],
    }
    afterwards = said_by(
        box,
        "run = mlflow.get_run(sys.argv[1])\n"
        "found = mlflow.search_runs(experiment_names=['live'], filter_string=\"run_name = 'parent'\")\n"
        "print(json.dumps([run.info.status, repr(run.data.metrics['loss']), list(found['tags.mlflow.runName'])]))",
        child,
    )
    assert afterwards == ["FINISHED", "nan", ["parent"]]
    theirs = recipe.snapshot(box.store)[child]
    assert (theirs["params"], math.isnan(float(theirs["latest"]["loss"]))) == ({"lr": "0.1"}, True)


def test_an_artifact_is_there_when_it_is_asked_for(box: Box) -> None:
    told = said_by(
        box,
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_dict({'x': 1}, 'a/d.json')\n"
        "    uris = f'runs:/{run.info.run_id}/a/d.json', mlflow.get_artifact_uri('a/d.json')\n"
        "    print(json.dumps([mlflow.artifacts.load_dict(uri) for uri in uris]))",
    )
    assert told == [{"x": 1}, {"x": 1}]


ADMINISTERS = """
number = mlflow.create_experiment("made", tags={"team": "audio"})
seen = {"made": mlflow.get_experiment(number).tags["team"]}
try:
    mlflow.create_experiment("made")
except mlflow.TrainspoolException as error:
    seen["again"] = str(error)
mlflow.set_experiment(experiment_id=number)
mlflow.set_experiment_tags({"a": 1, "b": 2})
mlflow.delete_experiment_tag("a")
seen["tags"] = {k: v for k, v in mlflow.get_experiment(number).tags.items() if not k.startswith("mlflow.")}
with mlflow.start_run() as kept:
    mlflow.log_metric("loss", 1.0)
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    mlflow.delete_run(run.info.run_id)
    mlflow.log_metric("loss", 2.0, step=1)
seen["deleted"] = [mlflow.get_run(run.info.run_id).info.lifecycle_stage, mlflow.get_run(run.info.run_id).info.status]
seen["left"] = [r.info.run_id == kept.info.run_id for r in mlflow.search_runs(output_format="list")]
mlflow.restore_run(run.info.run_id)
seen["restored"] = len(mlflow.search_runs(output_format="list"))
seen["ids"] = [number, run.info.run_id]
print(json.dumps(seen))
"""


def test_what_is_made_tagged_deleted_and_restored_is_so_for_mlflow(box: Box) -> None:
    seen = said_by(box, ADMINISTERS)
    number, run_id = seen.pop("ids")
    assert seen == {
        "made": "audio",
        "again": "Experiment 'made' already exists.",
        "tags": {"b": "2", "team": "audio"},
        "deleted": ["deleted", "FINISHED"],
        "left": [True],
        "restored": 2,
    }
    theirs = recipe.snapshot(box.store)[run_id]
    assert (theirs["eid"], theirs["info"]["lifecycle_stage"], theirs["info"]["status"]) == (
        number,
        "active",
        "FINISHED",
    )
    assert len(theirs["hist"]["loss"]) == 2


DELETES_UNDER_ITSELF = """
experiment = mlflow.set_experiment("away")
with mlflow.start_run() as run:
    for step in range(2000):
        mlflow.log_metric("loss", float(step), step=step)
        if step == 500:
            mlflow.delete_experiment(experiment.experiment_id)
        if step == 1200:
            seen = mlflow.get_run(run.info.run_id).info.lifecycle_stage
assert mlflow.wait(60)
if sys.argv[1] == "restore":
    mlflow.restore_experiment(experiment.experiment_id)
print(json.dumps([run.info.run_id, experiment.experiment_id, seen]))
"""


@pytest.mark.parametrize("then", ["leave", "restore"])
def test_an_experiment_deleted_while_a_run_logs_loses_no_point_and_is_not_brought_back(box: Box, then: str) -> None:
    run_id, number, seen = said_by(box, DELETES_UNDER_ITSELF, then)
    assert seen == "deleted"
    theirs = recipe.snapshot(box.store)[run_id]
    stage = "active" if then == "restore" else "deleted"
    assert (theirs["info"]["status"], theirs["info"]["lifecycle_stage"], theirs["stage"]) == ("FINISHED", stage, stage)
    assert [step for _, step, _ in theirs["hist"]["loss"]] == list(range(2000))
    assert [path.parent.name for path in box.store.rglob(f"{number}/meta.yaml")] == [number], "in one place"


def test_mlflow_deletes_and_restores_what_we_did_and_the_other_way_round(box: Box) -> None:
    from mlflow import MlflowClient

    run_id, number = said_by(
        box,
        "e = mlflow.set_experiment('both')\n"
        "with mlflow.start_run() as run: mlflow.log_metric('loss', 1.0)\n"
        "assert mlflow.wait(60)\n"
        "mlflow.delete_run(run.info.run_id)\n"
        "print(json.dumps([run.info.run_id, e.experiment_id]))",
    )
    client = MlflowClient(str(box.store))
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    client.restore_run(run_id)
    client.delete_experiment(number)
    back = said_by(
        box,
        f"mlflow.restore_experiment('{number}')\n"
        f"print(json.dumps([mlflow.get_run('{run_id}').info.lifecycle_stage, mlflow.get_experiment('{number}').name]))",
    )
    assert back == ["active", "both"]
    assert client.get_experiment(number).lifecycle_stage == "active"


def test_the_machines_metrics_go_on_where_a_resumed_run_left_them(box: Box) -> None:
    pytest.importorskip("psutil")
    program = (
        "import time\n"
        "mlflow.set_system_metrics_sampling_interval(0.01)\n"
        "key = 'system/cpu_utilization_percentage'\n"
        "with mlflow.start_run(run_id=sys.argv[1] or None, log_system_metrics=True) as run:\n"
        "    known = int(sys.argv[2])\n"
        "    while len(history := mlflow.get_metric_history(run.info.run_id, key)) < known + 3: time.sleep(0.01)\n"
        "print(json.dumps([run.info.run_id, [p.step for p in mlflow.get_metric_history(run.info.run_id, key)]]))"
    )
    run_id, first = said_by(box, program, "", 0)
    again, both = said_by(box, program, run_id, len(first))
    assert again == run_id and both == list(range(len(both))) and len(both) >= len(first) + 3


def test_without_an_agent_what_is_there_is_read_and_sync_brings_the_rest(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        program = (
            "with mlflow.start_run() as run: mlflow.log_metric('loss', 1.0)\n"
            "try: mlflow.get_run(run.info.run_id)\n"
            "except mlflow.TrainspoolException as error: print(json.dumps([run.info.run_id, str(error)]))"
        )
        run_id, told = said_by(box, program)
        assert told.startswith(f"Run '{run_id}' not found; the store has not all") and "trainspool sync" in told
        box.sync()
        until(lambda: box.stored_run(run_id), "the run in the store")
        found = said_by(box, f"print(json.dumps(mlflow.get_run('{run_id}').data.metrics))")
        assert found == {"loss": 1.0}


RESUMES = """
first = mlflow.get_run(sys.argv[1])
mlflow.set_experiment("another")
with mlflow.start_run(run_id=sys.argv[1]) as run:
    epoch = int(run.data.metrics["epoch"])
    about = run.info
    mlflow.log_metric("epoch", epoch + 1, step=epoch + 1)
    mlflow.log_param("late", 1)
    mlflow.log_text("x", "a.txt")
    during = [run.data.metrics["epoch"], run.data.params, mlflow.get_artifact_uri()]
assert mlflow.wait(60)
print(json.dumps([
    about._replace(status="", end_time=0) == first.info._replace(status="", end_time=0), about.status, during,
    run.data.tags["note"], mlflow.get_run(sys.argv[1]).info.run_name, os.listdir(run.info.artifact_uri),
]))
"""


def test_a_resumed_run_tells_what_the_store_has_of_it_and_stays_where_it_is(box: Box) -> None:
    run_id, experiment = said_by(
        box,
        "e = mlflow.set_experiment('its own')\n"
        "with mlflow.start_run(run_name='named', tags={'note': 'kept'}) as run:\n"
        "    for step in range(3): mlflow.log_metric('epoch', step, step=step)\n"
        "    mlflow.log_param('lr', 0.1)\n"
        "assert mlflow.wait(60)\n"
        "again = mlflow.start_run(run_id=run.info.run_id)\n"
        "assert (again.info.run_name, again.info.experiment_id) == ('named', e.experiment_id), again.info\n"
        "print(json.dumps([run.info.run_id, e.experiment_id]))",
    )
    same, status, during, note, name, files = said_by(box, RESUMES, run_id)
    where = f"{box.store}/{experiment}/{run_id}/artifacts"
    assert (same, status, note, name, files) == (True, "RUNNING", "kept", "named", ["a.txt"])
    assert during == [3.0, {"lr": "0.1", "late": "1"}, where]
    assert recipe.snapshot(box.store)[run_id]["eid"] == experiment


MANY = """
runs = []
for _ in range(30):
    with mlflow.start_run() as run:
        runs.append(run.info.run_id)
found = mlflow.search_runs(order_by=["start_time DESC"], output_format="list")
in_order = [run.info.run_id for run in found] == runs[::-1]
print(json.dumps([in_order, all(run.info.end_time >= run.info.start_time for run in found)]))
"""


def test_runs_begun_at_once_are_found_in_the_order_of_their_beginning(box: Box) -> None:
    assert said_by(box, MANY) == [True, True]
