"""Experiments that are renamed, made anew, made by several at once: what is said of them is what MLflow says."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from box import SHARED_MEMORY, Box, until
from conformance.plugin.switched import OURS, run, said

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

COUNTS = """
def tell():
    found = mlflow.search_experiments()
    print("SEEN", {one.name: len(client.search_runs([one.experiment_id])) for one in found if one.name != "Default"})
"""

RENAMES = f"""
import mlflow
client = mlflow.MlflowClient()
{COUNTS}
first = client.create_experiment("n")
client.create_run(first)
client.rename_experiment(first, "old n")
client.create_run(first)
second = mlflow.set_experiment("n").experiment_id
with mlflow.start_run():
    pass
assert second != first
assert [len(client.search_runs([one])) for one in (first, second)] == [2, 1]
tell()
"""

TAGS = """
import mlflow
client = mlflow.MlflowClient()
number = client.create_experiment("tagged", tags={"a": "0"})
for turn in range(20):
    client.set_experiment_tag(number, "a", f"{turn}")
    assert client.get_experiment(number).tags["a"] == f"{turn}"
    assert client.get_experiment_by_name("tagged").tags["a"] == f"{turn}"
client.create_run(number)
client.delete_experiment_tag(number, "a")
assert "a" not in client.get_experiment(number).tags
"""

DELETES = """
import subprocess, sys
import mlflow
number = mlflow.set_experiment("deleted").experiment_id
with mlflow.start_run():
    pass
delete = "import sys, mlflow; mlflow.MlflowClient().delete_experiment(sys.argv[1])"
subprocess.run([sys.executable, "-c", delete, number], check=True)
try:
    mlflow.start_run()
except mlflow.MlflowException as error:
    print("SAID", error.error_code, "non-active" in str(error))
"""

# Not by the fluent set_experiment: of several at once, MLflow's leaves the current experiment as it was in some.
CHOOSES = """
import mlflow
client = mlflow.MlflowClient()
try:
    number = client.create_experiment("n2")
except mlflow.MlflowException:
    number = client.get_experiment_by_name("n2").experiment_id
for _ in range(2):
    client.set_terminated(client.create_run(number).info.run_id)
client.set_experiment_tag(number, "team", "a")
assert len(client.search_runs([number])) >= 2
"""

TOLD_LATE = """
import os, sys, time
import mlflow
client = mlflow.MlflowClient()
number = client.create_experiment("both")
run = client.create_run(number)
print("MADE", number, flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
client.set_experiment_tag(number, "team", "a")
found = client.search_runs([number])
assert [one.info.run_id for one in found] == [run.info.run_id]
stored = client.get_experiment(number)
assert stored.experiment_id == sys.argv[2] and client.get_experiment_by_name("both").experiment_id == sys.argv[2]
"""

STOCK = """
import mlflow
print("MADE", mlflow.MlflowClient().create_experiment("both"))
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        yield made


def names(box: Box) -> list[str]:
    return sorted(yaml.safe_load(path.read_text())["name"] for path in box.store.glob("*/meta.yaml"))


def stock(box: Box, program: str, store: Path) -> str:
    return run(box, program, MLFLOW_TRACKING_URI=str(store), MLFLOW_ALLOW_FILE_STORE="true")


def test_a_name_made_anew_after_a_renaming_is_another_experiment(box: Box) -> None:
    box.start_agent()
    ours, theirs = run(box, RENAMES), stock(box, RENAMES, box.folder / "stock")
    assert said(ours, "SEEN") == said(theirs, "SEEN")


def test_tags_of_an_experiment_are_read_as_this_process_set_them(box: Box) -> None:
    box.start_agent()
    run(box, TAGS)


def test_no_run_begins_in_an_experiment_that_someone_else_has_deleted(box: Box) -> None:
    box.start_agent()
    ours, theirs = run(box, DELETES), stock(box, DELETES, box.folder / "stock")
    assert said(ours, "SAID") == said(theirs, "SAID")


def test_processes_that_choose_a_renamed_name_at_once_share_one_experiment(box: Box) -> None:
    box.start_agent()
    run(
        box,
        'import mlflow\nclient = mlflow.MlflowClient()\nmade = client.create_experiment("n2")\nclient.create_run(made)',
    )
    until(box.is_quiet, "it is stored")
    (path,) = (path for path in box.store.glob("*/meta.yaml") if path.parent.name != "0")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"name": "old n2"}))
    processes = [box.start(CHOOSES, **OURS) for _ in range(3)]
    for process in processes:
        done = box.finish(process)
        assert done.returncode == 0, done.stderr[-3000:]
    until(box.is_quiet, "all is stored")
    assert names(box) == ["Default", "n2", "old n2"]
    assert len(list(path.parent.glob("*/meta.yaml"))) == 1
    (tag,) = box.store.glob("*/tags/team")
    assert len(list(tag.parents[1].glob("*/meta.yaml"))) == 6


def test_an_experiment_that_mlflow_made_meanwhile_is_the_one_that_ours_is(box: Box) -> None:
    agent = box.start_agent()
    run(box, "import mlflow\nmlflow.search_experiments()\nmlflow.start_run()")
    until(box.is_quiet, "there is a store")
    agent.send_signal(signal.SIGSTOP)
    go_on = box.folder / "go on"
    stored = said(stock(box, STOCK, box.store), "MADE")
    os.rename(box.store / stored, box.folder / "aside")  # ours does not see it yet
    process = box.start(TOLD_LATE, go_on, stored, **OURS)
    output = box.output_of(process)
    until(lambda: "MADE" in output.read_text(), "ours is made")
    os.rename(box.folder / "aside", box.store / stored)
    agent.send_signal(signal.SIGCONT)
    until(lambda: list((box.store / stored).glob("*/meta.yaml")), "its run is in the one of MLflow")
    go_on.touch()
    done = box.finish(process)
    assert done.returncode == 0, done.stderr[-3000:]
    until(box.is_quiet, "all is stored")
    assert names(box) == ["Default", "both"] and (box.store / stored / "tags/team").read_text() == "a"
