"""A spool that hosts share: `sync` on one carries the streams of another that has no agent (any more); no harm is done.

Host A trains, host B is a login node. Here both are this machine, by two names, with rings and agents of their own.
Where it matters B believes in another boot, so that A's processes mean nothing to it, as on another machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from box import FINISHED, KILLED, RUNNING, SHARED_MEMORY, Box, Stored, Witness, two_hosts, until

from trainspool.spool import layout

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

STOP = 7
TRAINER = (
    Witness.HEAD
    + """
mlflow.set_experiment("takeover")
run = mlflow.start_run(run_id=os.environ.get("RUN"), run_name="on host a")
os.pwrite(fd, run.info.run_id.encode(), 2048)
mlflow.log_param("lr", 0.1)
key, step = os.environ.get("KEY", "loss"), 0
while not words[7]:
    mlflow.log_metric(key, step / 4, step=step)
    step += 1
    words[0] = step
    time.sleep(0.001)
mlflow.end_run()
"""
)
ANOTHER_BOOT = """
from trainspool_agent import liveness
liveness.boot_id = lambda: "b0b0b0b0-0000-4000-8000-000000000000"
"""


def make_another_machine(box: Box) -> None:
    """Let the agents of *box* believe in a boot of their own."""
    path = box.folder / "another"
    path.mkdir()
    (path / "sitecustomize.py").write_text(ANOTHER_BOOT)
    box.environment["PYTHONPATH"] = f"{path}:{os.environ.get('PYTHONPATH', '')}"


def train(box: Box, **environment: str) -> tuple[subprocess.Popen[bytes], Witness, str]:
    witness = box.witness()
    trainer = box.start(TRAINER, witness.path, **environment)
    until(lambda: witness[0] > 20, "points logged")
    return trainer, witness, witness.text


def take_over(box: Box) -> dict[str, Any]:
    """Sync from *box*; return what became of the other host's streams."""
    report = json.loads(box.sync("--json"))
    assert report["problems"] == []
    others: dict[str, Any] = report["others"]
    return others


def points(box: Box, run_id: str) -> int:
    run = box.stored_run(run_id)
    steps = [step for _, _, step in run.points("loss")] if run else []
    assert steps == list(range(len(steps)))
    return len(steps)


def all_is_stored(box: Box, witness: Witness, run_id: str, *, most_more: int = 0) -> Stored:
    """Every point is there once, and the account knows of no other."""
    run = box.stored()[run_id]
    assert 0 <= points(box, run_id) - witness[0] <= most_more
    account = run.check_account()
    assert not any(account[name] for name in ("folded", "dropped", "damaged", "refused", "unknown_tail")), account
    assert account["accepted"] == points(box, run_id)
    return run


def seen_by_mlflow(box: Box, run_id: str) -> tuple[str, list[int]]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(str(box.store))
    history = client.get_metric_history(run_id, "loss")
    return client.get_run(run_id).info.status, [point.step for point in history]


def files_of(stream: Path) -> dict[str, tuple[int, int]]:
    """Everything in a stream's folder but what its writer makes: its segments."""
    infos = {path.name: path.lstat() for path in stream.iterdir() if layout.parse_segment_name(path.name) is None}
    return {name: (info.st_ino, info.st_mtime_ns) for name, info in infos.items()}


def test_sync_carries_a_host_without_an_agent_live_and_repeatedly_and_its_agent_goes_on(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        trainer, witness, run_id = train(a)
        until(a.streams, "the stream's folder")
        [stream] = a.streams()
        until(lambda: list(stream.glob("*.seg")), "a segment")
        before, reached = files_of(stream), 0
        for _ in range(3):
            logged = witness[0]
            until(lambda: take_over(b)["points"] and points(b, run_id) >= logged, "what was logged")  # noqa: B023
            assert points(b, run_id) > reached
            reached = points(b, run_id)
            status, steps = seen_by_mlflow(b, run_id)
            assert (status, steps) == ("RUNNING", list(range(reached)))
        assert files_of(stream) == before, "B wrote into a stream of A's"
        trainer.kill()
        trainer.wait()
        ring = list(a.rings.glob("*.ring"))
        take_over(b)
        assert b.status_of(run_id) == RUNNING, "nobody on B can know"
        assert files_of(stream) == before
        assert list(a.rings.glob("*.ring")) == ring, "only A may drain"
        a.start_agent()
        until(lambda: a.status_of(run_id) == KILLED, "the end, said by A's agent")
        until(a.is_quiet, "durable")
        all_is_stored(a, witness, run_id, most_more=1)
        assert seen_by_mlflow(b, run_id)[0] == "KILLED"
        assert take_over(b)["streams"] == 0, "A's cursor says that it is finished"


def test_a_run_that_ended_in_order_is_finished_by_sync_elsewhere(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        trainer, witness, run_id = train(a)
        witness[STOP] = 1
        assert a.finish(trainer).returncode == 0
        assert take_over(b)["points"] == witness[0]
        assert b.status_of(run_id) == FINISHED
        all_is_stored(b, witness, run_id)
        assert take_over(b)["points"] == 0
        a.start_agent()
        until(a.is_quiet, "carried by A's agent, too")
        all_is_stored(a, witness, run_id)


def test_a_host_whose_agent_lives_is_left_to_it(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        agent = a.start_agent()
        trainer, witness, run_id = train(a)
        until(lambda: points(a, run_id), "carried by A's agent")
        others = take_over(b)
        assert (others["left"], others["streams"], others["points"]) == (1, 0, 0)
        lease = json.loads((a.stored()[run_id].folder / "trainspool.lease").read_text())
        assert lease["holder"]["pid"] == agent.pid
        assert not (a.stored()[run_id].folder / "trainspool.lease.wanted").exists()
        witness[STOP] = 1
        a.finish(trainer)
        until(lambda: a.status_of(run_id) == FINISHED, "its end")
        until(a.is_quiet, "durable")
        all_is_stored(a, witness, run_id)


def test_one_run_of_two_hosts_of_which_only_this_one_has_an_agent(tmp_path: Path) -> None:
    """That agent holds the run; asked, it hands it over and takes it again."""
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        b.start_agent()
        here, of_b, run_id = train(b, KEY="b")
        until(lambda: b.stored_run(run_id), "the run in the store")
        there, of_a, _ = train(a, RUN=run_id)
        logged = of_a[0]
        until(lambda: take_over(b)["streams"] and points(b, run_id) >= logged, "A's points")
        for box, trainer, witness in ((a, there, of_a), (b, here, of_b)):
            witness[STOP] = 1
            assert box.finish(trainer).returncode == 0
        take_over(b)
        until(lambda: b.status_of(run_id) == FINISHED, "its end")
        run = b.stored()[run_id]
        until(lambda: len(run.points("b")) == of_b[0], "B's points")
        assert points(b, run_id) == of_a[0]
        a.start_agent()
        until(lambda: a.is_quiet() and b.is_quiet(), "durable")
        account = run.check_account()
        assert (account["accepted"], account["folded"]) == (of_a[0] + of_b[0], 0), account


def test_bad_bytes_in_an_unsealed_segment_of_another_host_are_not_yet_there(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        trainer, witness, run_id = train(a)
        [segment] = until(lambda: list(a.spool.glob("streams/*/*/*.seg")), "a segment")
        until(lambda: segment.stat().st_size > 20_000, "some frames")
        os.kill(trainer.pid, signal.SIGSTOP)
        whole = segment.read_bytes()
        middle = len(whole) // 2
        with segment.open("r+b") as file:
            file.seek(middle)
            file.write(bytes(100))
        assert take_over(b)["unread"] == 1
        reached = points(b, run_id)
        assert 0 < reached < witness[0]
        with segment.open("r+b") as file:
            file.seek(middle)
            file.write(whole[middle : middle + 100])
        os.kill(trainer.pid, signal.SIGCONT)
        witness[STOP] = 1
        a.finish(trainer)
        assert take_over(b)["unread"] == 0
        assert b.status_of(run_id) == FINISHED
        all_is_stored(b, witness, run_id)


def test_told_to_stop_while_it_waits_for_a_lease_it_leaves_and_says_so(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        agent = a.start_agent()
        _, _, run_id = train(a)
        until(lambda: points(a, run_id), "carried by A's agent")
        agent.kill()
        agent.wait()
        syncing = start_sync(b)
        until((b.rings / "taken").is_dir, "it has begun with A's stream")
        syncing.terminate()
        assert syncing.wait(20) == 1, "it left by itself, and before the lease lapsed"
        assert "stopped before the end" in (b.folder / "sync.log").read_text()


def come_and_go(folder: Path, seed: int, rounds: int) -> None:
    """A's agent is killed and started again, B syncs all the while: every point once."""
    rng = random.Random(seed)
    with two_hosts(folder) as (a, b):
        trainer, witness, run_id = train(a)
        for _ in range(rounds):
            agent = a.start_agent()
            syncing = start_sync(b)
            time.sleep(rng.uniform(0, 0.5))  # the moment of the kill
            agent.kill()
            agent.wait()
            assert syncing.wait(120) == 0
        if rng.random() < 0.5:
            trainer.kill()
            trainer.wait()
        else:
            witness[STOP] = 1
            a.finish(trainer)
        syncing = start_sync(b)
        a.start_agent()
        assert syncing.wait(120) == 0
        until(lambda: a.status_of(run_id) in (FINISHED, KILLED), "its end")
        until(a.is_quiet, "durable")
        all_is_stored(a, witness, run_id, most_more=1)
        assert seen_by_mlflow(b, run_id)[1] == list(range(points(a, run_id)))


def start_sync(box: Box) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainspool_agent", "sync"]
    environment = {name: value for name, value in box.environment.items() if name != "TRAINSPOOL_STORE"}
    with open(box.folder / "sync.log", "ab") as log:
        return subprocess.Popen(command, env=environment, cwd=box.folder, stdout=log, stderr=log)


def test_its_agent_comes_and_goes_while_another_host_syncs(tmp_path: Path, seed: int) -> None:
    come_and_go(tmp_path, seed, 3)


@pytest.mark.long
def test_its_agent_comes_and_goes_fifty_times_while_another_host_syncs(tmp_path: Path, seed: int) -> None:
    come_and_go(tmp_path, seed, 50)


@pytest.mark.long
def test_an_agent_that_left_its_run_without_a_word_is_waited_for_then_taken_over(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        agent = a.start_agent()
        _, witness, run_id = train(a)
        until(lambda: points(a, run_id), "carried by A's agent")
        agent.kill()
        agent.wait()
        logged = witness[0]
        assert take_over(b)["streams"] == 1
        assert points(b, run_id) >= logged
        assert b.status_of(run_id) == RUNNING
        witness[STOP] = 1
        a.start_agent()
        until(lambda: a.status_of(run_id) == FINISHED, "its end")
        until(a.is_quiet, "durable")
        all_is_stored(a, witness, run_id)


@pytest.mark.long
def test_an_agent_stopped_for_longer_than_its_lease_finds_its_run_taken_over_and_goes_on(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (a, b):
        make_another_machine(b)
        agent = a.start_agent()
        trainer, witness, run_id = train(a)
        until(lambda: points(a, run_id), "carried by A's agent")
        os.kill(agent.pid, signal.SIGSTOP)
        logged = witness[0]
        assert take_over(b)["streams"] == 1
        assert points(b, run_id) >= logged
        syncing = start_sync(b)  # it may hold the run when the other wakes
        os.kill(agent.pid, signal.SIGCONT)
        assert syncing.wait(120) == 0
        witness[STOP] = 1
        a.finish(trainer)
        until(lambda: a.status_of(run_id) == FINISHED, "its end")
        until(a.is_quiet, "durable")
        all_is_stored(a, witness, run_id)
        assert seen_by_mlflow(b, run_id) == ("FINISHED", list(range(witness[0])))
