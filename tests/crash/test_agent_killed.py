"""kill -9 of the agent while it compacts, again and again: the store is equal to an undisturbed one.

Two judges: the same streams carried once more by one `trainspool sync`, into the same place, compared byte for byte;
and MLflow's client, which reads all the while and may never fail or see a point go.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from box import FINISHED, KILLED, SHARED_MEMORY, Box, Witness, until
from handmade import contents

from trainspool.spool.layout import CURSOR

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

STOP = 7
READ_PAUSE_S = 0.005
TRAINER = (
    Witness.HEAD
    + """
name, shared = sys.argv[2], sys.argv[3]
mlflow.set_experiment("crash " + name)
runs = points = others = 0
while not words[7]:
    with mlflow.start_run(run_name=f"{name} {runs}") as run:
        os.pwrite(fd, run.info.run_id.encode(), 2048)
        runs += 1
        words[2] = runs
        mlflow.log_params({"lr": 0.1 * runs, "name": name, "lines": "a\\nb"})
        for step in range(700):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.log_metrics({"acc/train": step * 0.25, "acc/val": -step, "odd": float("nan")}, step=step)
            points += 4
            words[0] = points
            if not step % 10:
                mlflow.set_tag("progress", step)
                mlflow.log_metric("shared/" + name, step, step=points, run_id=shared)
                others += 1
                words[1] = others
                time.sleep(0.01)
            if words[7]:
                break
        mlflow.log_text(f"{name}: {points}", "总结.txt")
"""
)
SHARED = """
import sys, time
import trainspool as mlflow
mlflow.set_experiment("crash shared")
run = mlflow.start_run(run_name="of them all")
print(run.info.run_id, flush=True)
mlflow.flush()
while True:
    time.sleep(1)
"""


class Reader:
    """Reads a store as a person's MLflow page does, without a pause; remembers everything that should not be."""

    def __init__(self, box: Box, witnesses: list[Witness]) -> None:
        self.box, self.witnesses = box, witnesses
        self.reads = 0
        self.faults: list[str] = []
        self._known: dict[tuple[str, str], list[tuple[int, str, int]]] = {}
        self._seen: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        from conformance import recipe  # noqa: F401  it allows the file store
        from mlflow import MlflowClient

        until(lambda: self.box.store.is_dir() or self._stopping.is_set(), "a store")
        client = MlflowClient(str(self.box.store))
        while not self._stopping.wait(READ_PAUSE_S):
            for witness in self.witnesses:
                run_id = witness.text
                if run_id in self._seen or (run_id and self.box.stored_run(run_id)):
                    self._seen.add(run_id)
                    try:
                        self._read(client, run_id)
                    except Exception as error:  # noqa: BLE001  whatever a reader meets is what we look for
                        self.faults.append(f"run {run_id}: {type(error).__name__}: {error}"[:300])

    def _read(self, client: object, run_id: str) -> None:
        seen = client.get_run(run_id)  # type: ignore[attr-defined]
        keys = set(seen.data.metrics) | {key for run, key in self._known if run == run_id}
        for key in sorted(keys):
            history = client.get_metric_history(run_id, key)  # type: ignore[attr-defined]
            points = [(point.timestamp, repr(point.value), point.step) for point in history]
            before = self._known.get((run_id, key), [])
            if points[: len(before)] != before:
                self.faults.append(f"run {run_id} key {key}: {len(before)} points were there, now {len(points)}")
            self._known[run_id, key] = points
        self.reads += 1


def torment(box: Box, seed: int, kills: int, scripts: int = 3, ring_bytes: int = 0) -> None:
    """Kill the agent *kills* times while *scripts* log, then compare with an undisturbed store."""
    rng = random.Random(seed)
    if ring_bytes:
        box.environment["TRAINSPOOL_RING_BYTES"] = str(ring_bytes)
    owner = box.start(SHARED)
    shared = until(lambda: Path(f"{owner.args[1]}.out").read_text().strip(), "the shared run")  # type: ignore[index]
    witnesses = [box.witness() for _ in range(scripts)]
    trainers = [box.start(TRAINER, one.path, f"t{number}", shared) for number, one in enumerate(witnesses)]
    reader = Reader(box, witnesses)
    with reader.reading():
        for _ in range(kills):
            agent = box.start_agent(wait=rng.random() < 0.8)  # some while they still start
            time.sleep(rng.choice((rng.uniform(0, 0.05), rng.uniform(0, 0.4))))  # the moment of the kill
            agent.kill()
            agent.wait()
        for number, witness in enumerate(witnesses):
            if number:
                witness[STOP] = 1
        trainers[0].kill()  # one dies without a word
        codes = [trainer.wait() for trainer in trainers]
        for _ in range(3):  # and the agent, while it comes to the ends
            agent = box.start_agent()
            time.sleep(rng.uniform(0, 0.3))
            agent.kill()
            agent.wait()
        owner.kill()
        owner.wait()
        agent = box.start_agent()
        until(box.is_quiet, "everything is carried and durable")
        box.stop(agent)
    assert codes == [-9] + [0] * (scripts - 1)
    assert not reader.faults, (len(reader.faults), reader.reads, reader.faults[:5])
    assert reader.reads >= 5
    check_witnesses(box, witnesses, shared)
    check_against_undisturbed(box, shared)
    points, runs = sum(one[0] + one[1] for one in witnesses), len(box.stored())
    print(f"{kills + 3} kills of the agent, {runs} runs, {points} points, {reader.reads} reads by MLflow: 0 faults")


def check_witnesses(box: Box, witnesses: list[Witness], shared: str) -> None:
    runs = box.stored()
    for run in runs.values():
        account = run.check_account()
        lost = {name: account[name] for name in ("folded", "dropped", "damaged", "unknown_tail", "refused")}
        assert not any(lost.values()), (run.run_id, account)
        assert account["accepted"] == account["stored"]
    for number, witness in enumerate(witnesses):
        own = [run for run in runs.values() if run.meta["run_name"].startswith(f"t{number} ")]
        stored = sum(len(run.points(key)) for run in own for key in ("loss", "acc/train", "acc/val", "odd"))
        most = 4 if number == 0 else 0  # the call that the kill interrupted
        assert 0 <= stored - witness[0] <= most, (number, stored, witness[0])
        assert 0 <= len(own) - witness[2] <= (number == 0)
        in_shared = len(runs[shared].points(f"shared/t{number}"))
        assert 0 <= in_shared - witness[1] <= (number == 0), (number, in_shared, witness[1])
        assert {run.status for run in own} <= {FINISHED, KILLED}
        assert sum(run.status == KILLED for run in own) <= (number == 0)
    assert runs[shared].status == KILLED


def check_against_undisturbed(box: Box, shared: str) -> None:
    """Carry the same streams once more, from their first byte, to the same place: every byte is the same."""
    disturbed = contents(box.store)
    os.rename(box.store, box.folder / "disturbed")
    for stream in box.streams():
        (stream / CURSOR).unlink()
    box.sync()
    undisturbed = contents(box.store)
    assert disturbed.keys() == undisturbed.keys(), sorted(disturbed.keys() ^ undisturbed.keys())[:10]
    differing = [name for name, data in disturbed.items() if data != undisturbed[name]]
    made_at = [name for name in differing if name.count("/") == 1 and name.endswith("/meta.yaml")]
    differing = [name for name in differing if name not in made_at]  # an experiment says when it was made
    assert not differing, [(name, disturbed[name][-200:], undisturbed[name][-200:]) for name in differing[:3]]


def test_killed_again_and_again_the_store_is_as_if_nothing_had_been(tmp_path: Path, seed: int) -> None:
    with Box(tmp_path) as box:
        torment(box, seed, 6)


@pytest.mark.long
def test_agent_killed_a_hundred_times(tmp_path: Path, seed: int) -> None:
    with Box(tmp_path) as box:
        torment(box, seed, 100)


@pytest.mark.long
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("ring_bytes", [0, 1 << 20])
def test_agent_killed_a_thousand_times_in_ten_parts(tmp_path: Path, seed: int, ring_bytes: int, part: int) -> None:
    with Box(tmp_path) as box:
        torment(box, seed + part, 97, scripts=2 + part % 2, ring_bytes=ring_bytes)
