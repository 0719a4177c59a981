"""Real processes in odd company: stopped, many, on two hosts, beside a second agent, another version, MLflow itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from box import FINISHED, KILLED, RUNNING, SHARED_MEMORY, Box, Stored, Witness, two_hosts, until

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

STOP = 7
TRAINER = (
    Witness.HEAD
    + """
mlflow.set_experiment("scenario")
run = mlflow.start_run(run_id=os.environ.get("RUN") or None)
os.pwrite(fd, run.info.run_id.encode(), 2048)
key, step = os.environ.get("KEY", "loss"), 0
while not words[7]:
    mlflow.log_metric(key, step / 4, step=step)
    step += 1
    words[0] = step
    time.sleep(0.002)
mlflow.end_run()
"""
)


def check(box: Box, witness: Witness, run_id: str, key: str = "loss") -> Stored:
    """Every point the witness saw logged is there once, and no other."""
    run = box.stored()[run_id]
    assert [step for _, _, step in run.points(key)] == list(range(witness[0]))
    return run


def begun(witness: Witness) -> str:
    until(lambda: witness[0] > 20, "points logged")
    return witness.text


def stop_for(box: Box, pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # the scenario itself: nothing is waited for
    os.kill(pid, signal.SIGCONT)


def a_trainer_stopped(folder: Path, seconds: float) -> None:
    with Box(folder) as box:
        box.start_agent()
        witness = box.witness()
        trainer = box.start(TRAINER, witness.path)
        run_id = begun(witness)
        until(lambda: box.status_of(run_id) == RUNNING, "the run in the store")
        stop_for(box, trainer.pid, seconds)
        assert box.status_of(run_id) == RUNNING
        before = witness[0]
        until(lambda: witness[0] > before + 20, "it goes on")
        witness[STOP] = 1
        assert box.finish(trainer).returncode == 0
        until(lambda: box.status_of(run_id) == FINISHED, "its end")
        until(box.is_quiet, "all carried")
        assert check(box, witness, run_id).check_account()["folded"] == 0


def test_a_trainer_stopped_for_a_while_is_not_dead(tmp_path: Path) -> None:
    a_trainer_stopped(tmp_path, 3)


@pytest.mark.long
def test_a_trainer_stopped_for_a_minute_is_not_dead(tmp_path: Path) -> None:
    a_trainer_stopped(tmp_path, 60)


def an_agent_stopped(folder: Path, seconds: float) -> None:
    with Box(folder) as box:
        agent, witness = box.start_agent(), box.witness()
        trainer = box.start(TRAINER, witness.path)
        run_id = begun(witness)
        stop_for(box, agent.pid, seconds)
        witness[STOP] = 1
        box.finish(trainer)
        until(lambda: box.status_of(run_id) == FINISHED, "its end")
        until(box.is_quiet, "all carried")
        check(box, witness, run_id).check_account()


def test_an_agent_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    an_agent_stopped(tmp_path, 3)


@pytest.mark.long
def test_an_agent_stopped_for_a_minute_goes_on(tmp_path: Path) -> None:
    an_agent_stopped(tmp_path, 60)


def test_a_clock_set_back_and_forth_loses_no_order(tmp_path: Path) -> None:
    jumping = TRAINER.replace(
        "mlflow.set_experiment",
        "import trainspool.run as r; real = time.time_ns; shift = [0]\n"
        "r._time_ns = time.time_ns = lambda: real() + shift[0]\nmlflow.set_experiment",
    ).replace("    step += 1", "    step += 1\n    shift[0] = (0, -3600, 3600, 0)[step // 50 % 4] * 10**9")
    with Box(tmp_path) as box:
        box.start_agent()
        witness = box.witness()
        trainer = box.start(jumping, witness.path)
        until(lambda: witness[0] > 500, "points logged")
        run_id = witness.text
        assert box.status_of(run_id) == RUNNING
        witness[STOP] = 1
        box.finish(trainer)
        until(lambda: box.status_of(run_id) == FINISHED, "its end")
        until(box.is_quiet, "all carried")
        check(box, witness, run_id).check_account()


RANKS = (
    Witness.HEAD
    + """
mlflow.set_experiment("ranks")
run = mlflow.start_run()
os.pwrite(fd, run.info.run_id.encode(), 2048)
mlflow.log_metric("rank/0", 0)
children = []
for rank in range(1, 64):
    pid = os.fork()
    if not pid:
        for step in range(50):
            mlflow.log_metric(f"rank/{rank}", step, step=step)
            mlflow.log_metric("shared", rank, step=step)
        mlflow.set_tag("last", rank)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
mlflow.end_run()
"""
)


def test_sixty_four_ranks_write_one_run(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        box.start_agent()
        witness = box.witness()
        assert box.finish(box.start(RANKS, witness.path)).returncode == 0
        until(lambda: box.status_of(witness.text) == FINISHED, "its end")
        until(box.is_quiet, "all carried")
        run = box.stored()[witness.text]
        for rank in range(1, 64):
            assert [step for _, _, step in run.points(f"rank/{rank}")] == list(range(50))
        assert len(box.streams()) == 64
        account = run.check_account()
        assert account["accepted"] == 1 + 63 * 100
        assert account["dropped"] == account["unknown_tail"] == 0


def test_two_hosts_write_one_run_through_two_agents(tmp_path: Path) -> None:
    """Neither waits for the other's end, and neither undoes what the other did."""
    with two_hosts(tmp_path) as (one, other):
        for box in (one, other):
            box.start_agent()
        witnesses = one.witness(), other.witness()
        trainers = [one.start(TRAINER, witnesses[0].path, KEY="a")]
        run_id = begun(witnesses[0])
        until(lambda: one.status_of(run_id) == RUNNING, "the run in the store")
        trainers.append(other.start(TRAINER, witnesses[1].path, KEY="b", RUN=run_id))
        begun(witnesses[1])
        until(lambda: len(one.stored()[run_id].points("b")) > 20, "the other's points, while the first goes on")
        reached = len(one.stored()[run_id].points("a"))
        until(lambda: len(one.stored()[run_id].points("a")) > reached, "the first's too")
        for box, witness, trainer in zip((one, other), witnesses, trainers, strict=True):
            witness[STOP] = 1
            assert box.finish(trainer).returncode == 0
        until(lambda: one.status_of(run_id) == FINISHED, "its end")
        until(lambda: one.is_quiet() and other.is_quiet(), "all carried")
        run = one.stored()[run_id]
        for key, witness in zip("ab", witnesses, strict=True):
            assert [step for _, _, step in run.points(key)] == list(range(witness[0]))
        assert run.check_account()["accepted"] == witnesses[0][0] + witnesses[1][0]


def test_a_killed_agents_run_is_taken_over_by_another_host(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (one, other):
        agent, witness = one.start_agent(), one.witness()
        one.start(TRAINER, witness.path, KEY="a")
        run_id = begun(witness)
        until(lambda: one.stored_run(run_id), "the run in the store")
        agent.kill()
        agent.wait()
        second = other.witness()
        trainer = other.start(TRAINER, second.path, KEY="b", RUN=run_id)
        begun(second)
        second[STOP] = 1
        other.finish(trainer)
        other.sync()
        assert [step for _, _, step in other.stored()[run_id].points("b")] == list(range(second[0]))
        witness[STOP] = 1
        one.start_agent()
        until(lambda: one.status_of(run_id) == FINISHED, "its end")
        until(lambda: one.is_quiet() and other.is_quiet(), "all carried")
        run = one.stored()[run_id]
        assert [step for _, _, step in run.points("a")] == list(range(witness[0]))
        assert run.check_account()["accepted"] == witness[0] + second[0]


def test_an_agent_is_upgraded_in_mid_run(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        agent, witness = box.start_agent(), box.witness()
        trainer = box.start(TRAINER, witness.path)
        run_id = begun(witness)
        for version in ("1.0", "2.0"):
            until(lambda: box.stored_run(run_id), "the run in the store")
            box.stop(agent)
            newer = f"import sys, trainspool_agent.agentlock as a\na._version = lambda: {version!r}\n"
            (tmp_path / "sitecustomize.py").write_text(newer)
            agent = box.start_agent(PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
            assert f'"version": "{version}"' in (box.rings / "agent.lock").read_text()
        witness[STOP] = 1
        box.finish(trainer)
        until(lambda: box.status_of(run_id) == FINISHED, "its end")
        until(box.is_quiet, "all carried")
        assert check(box, witness, run_id).check_account()["folded"] == 0


def test_mlflow_logs_to_renames_and_deletes_a_live_run(tmp_path: Path) -> None:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow import MlflowClient

    with Box(tmp_path) as box:
        box.start_agent()
        witness = box.witness()
        trainer = box.start(TRAINER, witness.path)
        run_id = begun(witness)
        until(lambda: box.stored_run(run_id), "the run in the store")
        client = MlflowClient(str(box.store))
        client.log_metric(run_id, "theirs", 0.5, step=1)
        client.log_metric(run_id, "loss", 0.125, timestamp=1, step=-7)
        client.set_tag(run_id, "note", "by hand")
        client.update_run(run_id, name="another name")
        client.rename_experiment(client.get_run(run_id).info.experiment_id, "another experiment")
        client.delete_run(run_id)
        before = witness[0]
        until(lambda: witness[0] > before + 100, "it goes on")
        trainer.kill()
        until(lambda: box.status_of(run_id) == KILLED, "its end")
        until(box.is_quiet, "all carried")
        run = client.get_run(run_id)
        assert (run.info.lifecycle_stage, run.info.run_name) == ("deleted", "another name")
        assert run.data.tags["note"] == "by hand"
        assert client.get_experiment(run.info.experiment_id).name == "another experiment"
        stored = box.stored()[run_id]
        steps = [step for _, _, step in stored.points("loss")]
        assert steps.count(-7) == 1
        assert 0 <= len(steps) - 1 - witness[0] <= 1
        assert [value for _, value, _ in stored.points("theirs")] == ["0.5"]
