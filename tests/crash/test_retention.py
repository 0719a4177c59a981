"""Retention and quota with a real agent and real training code: nothing goes but what is stored, drops are counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import FINISHED, Box, Witness, until

TRAINING = """
import trainspool as mlflow
with mlflow.start_run() as run:
    for step in range(2000):
        mlflow.log_metrics({"loss": step / 7, "acc": step / 9}, step=step)
    mlflow.log_text("weights", "model.txt")
print(run.info.run_id)
"""

CROWDED = (
    Witness.HEAD
    + """
from trainspool.stream import stream
with mlflow.start_run() as run:
    os.pwrite(fd, run.info.run_id.encode(), 2048)
    step = 0
    while stream.pump.error is None:  # until the agent has found the spool too full
        mlflow.log_metric("loss", step, step=step)
        step += 1
        time.sleep(0.002)
    for step in range(step, step + 100_000):  # more than the ring can take
        mlflow.log_metric("loss", step, step=step)
    words[0] = step + 1
"""
)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        yield made


def retention_of(box: Box) -> dict[str, Any]:
    """What the agent says of its retention."""
    said = json.loads((box.rings / "health.json").read_text())
    found: dict[str, Any] = said.get("retention", {}).get(str(box.spool), {})
    return found


def test_an_agent_deletes_what_is_stored_for_good_and_status_says_so(box: Box) -> None:
    done = box.run(TRAINING)
    assert done.returncode == 0, done.stderr
    box.sync()
    run = box.stored_run(done.stdout.strip())
    assert run is not None
    before = run.points("loss"), run.artifacts()
    box.start_agent("--idle-exit", "600", TRAINSPOOL_RETENTION_DAYS="0")
    until(lambda: not box.streams(), "the finished stream gone")
    assert (run.points("loss"), run.artifacts(), run.status) == (*before, FINISHED)
    account = json.loads(run.texts("tags")["trainspool.account"])
    assert (account["accepted"], account["stored"], account["dropped"]) == (4000, 4000, 0)
    until(lambda: retention_of(box).get("freed_segments"), "the agent says so")


def test_over_the_quota_training_goes_on_and_every_drop_is_counted(box: Box) -> None:
    box.start_agent(TRAINSPOOL_SPOOL_QUOTA="1")
    witness = box.witness()
    begun = time.monotonic()
    done = box.run(CROWDED, witness.path, TRAINSPOOL_RING_BYTES=str(256 << 10))
    assert (done.returncode, "quota" in done.stderr) == (0, True), done.stderr
    assert time.monotonic() - begun < 50
    run_id, logged = witness.text, witness[0]
    witness.close()
    until(lambda: box.status_of(run_id) == FINISHED, "the run's end")
    until(lambda: box.stored_run(run_id).texts("tags").get("trainspool.account"), "its account")  # type: ignore[union-attr]
    until(box.is_quiet, "all carried")
    run = box.stored_run(run_id)
    assert run is not None
    account = run.check_account()
    assert account["dropped"] > 0
    assert account["accepted"] + account["dropped"] == logged
    told = json.loads(run.texts("tags")["trainspool.account"])
    assert (told["accepted"], told["dropped"]) == (account["accepted"], account["dropped"])
