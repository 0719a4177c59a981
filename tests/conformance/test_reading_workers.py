"""Who reads the runs of its own workers finds all of them, whatever began the workers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from box import SHARED_MEMORY, Box, until
from conformance.plugin.switched import run, said

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

SWEEP = """
import json, multiprocessing, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from joblib import Parallel, delayed
mlflow = __import__(sys.argv[2])

def trial(score):
    with mlflow.start_run() as run:
        mlflow.log_metric("score", score)
        mlflow.log_text("x", "note.txt")
    return run.info.run_id

def pool(kind):
    with multiprocessing.get_context(kind).Pool(2) as workers:
        ids = workers.map(trial, range(4))
        return ids, look(ids)  # while they live

def look(ids):
    found = {run.info.run_id: run.data.metrics for run in mlflow.search_runs(output_format="list")}
    assert all(mlflow.get_run(one).data.metrics == found[one] for one in ids)
    assert all(mlflow.artifacts.load_text(f"runs:/{one}/note.txt") == "x" for one in ids)
    return sorted(found[one]["score"] for one in ids)

def joblib():
    ids = Parallel(n_jobs=2)(delayed(trial)(score) for score in range(4))
    return ids, look(ids)

def executor():
    with ProcessPoolExecutor(2) as workers:
        ids = list(workers.map(trial, range(4)))
    return ids, look(ids)  # they have left

def scripts():
    mine = [sys.executable, __file__, "alone", sys.argv[2]]
    ids = [subprocess.run([*mine, str(score)], check=True, capture_output=True, text=True).stdout.split()[-1]
           for score in range(4)]
    return ids, look(ids)

def killed():
    mine = [sys.executable, __file__, "dies", sys.argv[2]]
    ids = [subprocess.run([*mine, str(score)], capture_output=True, text=True).stdout.split()[-1] for score in range(4)]
    return ids, look(ids)

if __name__ == "__main__":
    if sys.argv[1] == "alone":
        print(trial(int(sys.argv[3])))
    elif sys.argv[1] == "dies":
        print(trial(int(sys.argv[3])), flush=True)
        os.kill(os.getpid(), 9)
    else:
        ways = {"joblib": joblib, "executor": executor, "scripts": scripts, "killed": killed}
        found = ways[sys.argv[1]]() if sys.argv[1] in ways else pool(sys.argv[1])
        print("FOUND", json.dumps(found[1]))
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("workers")) as made:
        made.start_agent()
        yield made


@pytest.mark.parametrize("library", ["trainspool", "mlflow"])
@pytest.mark.parametrize("way", ["joblib", "fork", "spawn", "forkserver", "executor", "scripts", "killed"])
def test_a_sweep_finds_every_trial(box: Box, way: str, library: str) -> None:
    printed = run(box, SWEEP, way, library)
    assert json.loads(said(printed, "FOUND")) == [0.0, 1.0, 2.0, 3.0]


IDLE = """
import os, sys
import trainspool as mlflow
from trainspool.others import others
with mlflow.start_run() as run:
    mlflow.log_metric("score", 1)
assert len(mlflow.search_runs(output_format="list")) >= 1
waited = []
others.wait = waited.append
other = others.behind()
assert not any(one.name == sys.argv[1] for one in other), other
try:
    mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/ckpt/last.pt")
except mlflow.TrainspoolException as error:
    print("SAID", error.error_code)
assert waited and not any(waited), "nothing was on its way, so nothing was waited for"
"""

BUSY = """
import sys, time
import trainspool as mlflow
from trainspool.stream import stream
mlflow.start_run()
mlflow.log_metric("a", 1)
print("STREAM", stream.id.hex(), flush=True)
while True:
    mlflow.log_metric("a", 1)
    time.sleep(0.001)
"""


def test_an_artifact_that_nobody_logged_is_missed_at_once_and_no_strangers_are_waited_for(box: Box) -> None:
    busy = box.start(BUSY)
    output = box.output_of(busy)
    until(lambda: "STREAM" in output.read_text(), "it logs")
    try:
        printed = run(box, IDLE, said(output.read_text(), "STREAM"))
    finally:
        busy.kill()
        busy.wait()
    assert said(printed, "SAID") == "RESOURCE_DOES_NOT_EXIST"
