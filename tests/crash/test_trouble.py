"""Trouble around a script that logs: its own exit status, a clean stderr but for the promised words, nothing lost.

Disks fill up, folders vanish, arguments are wrong, nobody is there to carry. The script goes on in every case; what it
logged is in the store as soon as it can be, and what was dropped is counted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from box import FINISHED, KILLED, SHARED_MEMORY, Box, Stored, Witness, until, zombies

import trainspool

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

STOP = 6
# Logs until told to stop: a point and a param now and then; words: points, params.
STEADY = (
    Witness.HEAD
    + """
mlflow.set_experiment("trouble")
with mlflow.start_run() as run:
    os.pwrite(fd, run.info.run_id.encode(), 2048)
    points = params = 0
    while not words[6]:
        for _ in range(int(sys.argv[2])):
            mlflow.log_metric("loss", points * 0.5, step=points)
            points += 1
            words[0] = points
        if not points % 500:
            mlflow.log_param(f"p{params}", params)
            params += 1
            words[1] = params
        time.sleep(0.002)
sys.exit(3)
"""
)
FULL, DROPS, RING_GONE = "cannot write the spool in", "the ring (256 KiB) is full", "the ring was removed under us"


def said(stderr: str, *promised: str) -> None:
    """Nothing of ours but the promised words, each once."""
    lines = stderr.splitlines()
    assert "Traceback" not in stderr, stderr
    for words in promised:
        assert sum(words in line for line in lines) == 1, (words, stderr)
    assert len(lines) == len(promised), stderr


def all_is_stored(box: Box, witness: Witness, *, most_more: int = 0) -> Stored:
    """Every point that a call accepted is in the store, or counted as dropped."""
    run = box.stored_run(witness.text)
    assert run is not None
    account, steps = run.check_account(), [step for _, _, step in run.points("loss")]
    assert 0 <= len(steps) + account["dropped"] - witness[0] <= most_more, (len(steps), witness[0], account)
    assert steps == sorted(set(steps)) and all(float(value) == step * 0.5 for _, value, step in run.points("loss"))
    others = len(run.texts("params")) + account["dropped_events"] - account["dropped"]
    assert 0 <= others - witness[1] <= most_more, (others, witness[1], account)
    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB that can be filled."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_store_that_cannot_be_made_is_waited_for(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        blocked = tmp_path / "blocked"
        blocked.write_text("a file where a folder should be")
        box.store = blocked / "mlruns"
        agent, witness = box.start_agent(), box.witness()
        script = box.start(STEADY, witness.path, 100, TRAINSPOOL_STORE=str(box.store))
        until(lambda: witness[0] > 2000 and "not stored" in box.agent_log(), "the agent says so, the script goes on")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr)
        blocked.unlink()
        until(lambda: box.status_of(witness.text) == FINISHED, "stored once it can be")
        until(box.is_quiet, "durable")
        all_is_stored(box, witness)
        box.stop(agent)
        assert "Traceback" not in box.agent_log()


def test_a_store_out_of_reach_is_not_replaced_by_the_store_of_the_script_that_started_the_agent(tmp_path: Path) -> None:
    with Box(tmp_path, autostart=True) as box:
        witness = box.witness()
        first = box.start(STEADY, witness.path, 10)
        until(lambda: witness.text and box.status_of(witness.text), "carried by the agent that it started")
        blocked = tmp_path / "blocked"
        blocked.write_text("a file where a folder should be")
        done = box.run(
            "import trainspool as mlflow\nprint(mlflow.start_run().info.run_id)\n", TRAINSPOOL_STORE=f"{blocked}/mlruns"
        )
        said(done.stderr)
        run_id = done.stdout.strip()
        until(lambda: f"not stored run='{run_id}'" in box.agent_log() or run_id in box.stored(), "the agent meets it")
        assert run_id not in box.stored(), "in a store that nobody named for it"
        witness[STOP] = 1
        assert box.finish(first).returncode == 3
        blocked.unlink()
        until(lambda: list(tmp_path.glob(f"blocked/mlruns/*/{run_id}/meta.yaml")), "stored where it belongs")


def test_store_on_a_full_disk_gets_all_when_space_returns(tmp_path: Path, small_disk: Path) -> None:
    with Box(tmp_path) as box:
        box.store = small_disk / "mlruns"
        agent, witness = box.start_agent(), box.witness()
        script = box.start(STEADY, witness.path, 20, TRAINSPOOL_STORE=str(box.store))
        until(lambda: witness.text and box.status_of(witness.text), "the run is in the store")
        until(lambda: box.stored_run(witness.text).points("loss"), "points are in the store")
        filler = fill(small_disk)
        before = witness[0]
        until(lambda: witness[0] > before + 3000 and "No space left" in box.agent_log(), "logging beside a full store")
        run = box.stored_run(witness.text)
        assert run is not None and run.points("loss"), "whole lines only, all the while"
        filler.unlink()
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr)
        until(lambda: box.status_of(witness.text) == FINISHED, "stored")
        until(box.is_quiet, "durable")
        assert all_is_stored(box, witness).account["dropped"] == 0
        box.stop(agent)
        assert "Traceback" not in box.agent_log()


def test_spool_on_a_full_disk_the_ring_absorbs_it(tmp_path: Path, small_disk: Path) -> None:
    with Box(tmp_path) as box:
        box.spool = small_disk / "spool"
        witness = box.witness()
        script = box.start(STEADY, witness.path, 10, TRAINSPOOL_DIR=str(box.spool))
        until(lambda: list(box.spool.glob("streams/*/*/*.seg")), "a segment")
        filler = fill(small_disk)
        until(lambda: FULL in Path(f"{list(script.args)[1]}.err").read_text(), "the warning")  # type: ignore[arg-type]
        before = witness[0]
        until(lambda: witness[0] > before + 2000, "the script goes on")
        filler.unlink()
        before = witness[0]
        until(lambda: witness[0] > before + 1000, "and on")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr, FULL)
        box.environment["TRAINSPOOL_DIR"] = str(box.spool)
        box.sync()
        assert all_is_stored(box, witness).account["dropped"] == 0


def test_spool_full_for_longer_than_the_ring_lasts_drops_and_counts(tmp_path: Path, small_disk: Path) -> None:
    with Box(tmp_path) as box:
        box.spool = small_disk / "spool"
        witness = box.witness()
        script = box.start(STEADY, witness.path, 50, TRAINSPOOL_DIR=str(box.spool), TRAINSPOOL_RING_BYTES="262144")
        until(lambda: list(box.spool.glob("streams/*/*/*.seg")), "a segment")
        filler = fill(small_disk)
        error = Path(f"{list(script.args)[1]}.err")  # type: ignore[arg-type]
        until(lambda: DROPS in error.read_text(), "the ring is full")
        before = witness[0]
        until(lambda: witness[0] > before + 1000, "the script goes on")
        filler.unlink()
        before = witness[0]
        until(lambda: witness[0] > before + 1000, "and on")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr, FULL, DROPS)
        box.environment["TRAINSPOOL_DIR"] = str(box.spool)
        box.sync()
        run = all_is_stored(box, witness)
        assert run.account["dropped"] >= 1000 and run.status == FINISHED


def test_leaving_while_the_spool_is_full_leaves_the_ring_for_later(tmp_path: Path, small_disk: Path) -> None:
    with Box(tmp_path) as box:
        box.spool = small_disk / "spool"
        witness = box.witness()
        script = box.start(STEADY, witness.path, 10, TRAINSPOOL_DIR=str(box.spool))
        until(lambda: list(box.spool.glob("streams/*/*/*.seg")), "a segment")
        filler = fill(small_disk)
        before = witness[0]
        until(lambda: witness[0] > before + 2000, "the script goes on")
        witness[STOP] = 1
        stopped_at = time.monotonic()
        done = box.finish(script)
        assert (done.returncode, time.monotonic() - stopped_at < 5) == (3, True)
        said(done.stderr, FULL)
        assert list(box.rings.glob("*.ring"))
        filler.unlink()
        box.environment["TRAINSPOOL_DIR"] = str(box.spool)
        box.sync()
        run = all_is_stored(box, witness)
        assert run.status == FINISHED and run.account["dropped"] == 0


def test_spool_that_cannot_be_made_is_waited_for(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        blocked, witness = tmp_path / "blocked", box.witness()
        blocked.write_text("a file where a folder should be")
        box.environment["TRAINSPOOL_DIR"] = str(blocked / "spool")
        box.spool = blocked / "spool"
        script = box.start(STEADY, witness.path, 10)
        until(lambda: FULL in Path(f"{list(script.args)[1]}.err").read_text(), "the warning")  # type: ignore[arg-type]
        blocked.unlink()
        until(lambda: list(box.spool.glob("streams/*/*/*.seg")), "it goes on by itself")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr, FULL)
        box.sync()
        assert all_is_stored(box, witness).account["dropped"] == 0


@pytest.mark.long
def test_more_stores_than_an_agent_keeps_open_are_all_made_durable(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        agent = box.start_agent()
        done = box.run(
            "import trainspool as mlflow\nfor number in range(80):\n    mlflow.set_tracking_uri(f'stores/{number}')\n"
            "    with mlflow.start_run():\n        mlflow.log_metric('loss', number)\n"
        )
        assert done.returncode == 0
        said(done.stderr)
        until(box.is_quiet, "durable")
        box.stop(agent)
        runs = [Stored(path.parent) for path in tmp_path.glob("stores/*/*/*/meta.yaml")]
        assert len(runs) == 80 and all(run.status == FINISHED for run in runs)
        assert len(list(tmp_path.glob("stores/*/*/*/trainspool.durable"))) == 80


# -- what is removed ---------------------------------------------------------------------------------------------------


def test_ring_removed_mid_run_is_replaced_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        witness = box.witness()
        script = box.start(STEADY, witness.path, 10)
        (first,) = until(lambda: list(box.rings.glob("*.ring")), "a ring")
        inode = first.stat().st_ino
        until(lambda: witness[0] > 1000, "it logs")
        keep = os.open(first, os.O_RDONLY)  # or the new file may get the old one's number
        first.unlink()
        until(lambda: first.exists() and first.stat().st_ino != inode, "a new ring")
        before = witness[0]
        until(lambda: witness[0] > before + 1000, "it goes on")
        script.kill()
        done = box.finish(script)
        os.close(keep)
        said(done.stderr, RING_GONE)
        box.sync()
        assert all_is_stored(box, witness, most_more=1).status == KILLED


def test_spool_removed_mid_run_costs_nothing_that_was_carried(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        agent, witness = box.start_agent(), box.witness()
        script = box.start(STEADY, witness.path, 10)
        until(lambda: witness.text and box.status_of(witness.text), "the run is in the store")
        shutil.rmtree(box.spool)
        until(lambda: list(box.spool.glob("streams/*/*/*.seg")), "the spool is made again")
        before = witness[0]
        until(lambda: witness[0] > before + 1000, "it goes on")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        # Said if something was on its way to the device; where the device had it all, and the agent, nothing is amiss.
        said(done.stderr, *["whose content is suspect"] if done.stderr else [])
        until(lambda: box.status_of(witness.text) == FINISHED, "stored")
        until(box.is_quiet, "durable")
        all_is_stored(box, witness)
        box.stop(agent)
        assert "Traceback" not in box.agent_log()


# -- misuse ------------------------------------------------------------------------------------------------------------

MISUSE = """
import trainspool as mlflow

def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except mlflow.TrainspoolException:
        return
    raise SystemExit(f"not refused: {arguments} {named}")

mlflow.set_experiment("misuse")
with mlflow.start_run() as run:
    print(run.info.run_id)
    for key in ("", "a\\nb", "../up", "a//b", "emoji \\U0001f600", "x" * 251, None, 7):
        refused(mlflow.log_metric, key, 1.0)
        refused(mlflow.log_param, key, 1.0)
        refused(mlflow.log_metrics, {"fine": 1.0, key: 2.0})
    for value in ("text", None, [1, 2], 10**400):
        refused(mlflow.log_metric, "loss", value)
    for step in (1.5, "1", 2**63, float("nan")):
        refused(mlflow.log_metric, "loss", 1.0, step=step)
    refused(mlflow.log_metric, "loss", 1.0, timestamp=-5)
    refused(mlflow.start_run)
    refused(mlflow.delete_tag, "never set")
    refused(mlflow.log_text, "x", "../outside.txt")
    mlflow.log_metric("loss", 1, step=2.0)
    mlflow.log_metric("loss", True, step=3)
    mlflow.log_param("lr", 0.1)
    mlflow.log_param("lr", 0.1)
    mlflow.log_param("lr", 0.2)
    refused(mlflow.set_experiment, "it's")
    refused(mlflow.set_tracking_uri, "http://localhost:5000")
raise SystemExit(0)
"""


def test_misuse_raises_at_the_call_and_the_rest_is_stored(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        done = box.run(MISUSE)
        assert done.returncode == 0, done.stderr
        said(done.stderr, "param 'lr' of run")
        box.sync()
        run = box.stored_run(done.stdout.strip())
        assert run is not None
        assert [(value, step) for _, value, step in run.points("loss")] == [("1.0", 2), ("1.0", 3)]
        assert (run.texts("params"), run.texts("tags")["param.lr.v2"]) == ({"lr": "0.1"}, "0.2")
        assert run.check_account()["accepted"] == 2 and not list(run.folder.glob("metrics/fine"))


def test_resuming_a_run_that_nobody_knows_makes_it(tmp_path: Path) -> None:
    """Unlike MLflow, which looks into the store: a log call of ours looks nowhere. What was logged is kept."""
    with Box(tmp_path) as box:
        done = box.run(
            "import trainspool as mlflow\nwith mlflow.start_run(run_id='f' * 32):\n    mlflow.log_metric('loss', 1)\n"
        )
        assert done.returncode == 0
        said(done.stderr)
        box.sync()
        run = box.stored_run("f" * 32)
        assert run is not None and run.status == FINISHED and len(run.points("loss")) == 1


def test_an_exception_ends_the_run_failed_and_its_traceback_is_the_scripts_own(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        done = box.run(
            "import trainspool as mlflow\nrun = mlflow.start_run()\nprint(run.info.run_id, flush=True)\n"
            "mlflow.log_metric('loss', 1)\nraise RuntimeError('of the script')\n"
        )
        assert done.returncode == 1
        assert done.stderr.count("Traceback") == 1 and "trainspool/" not in done.stderr
        box.sync()
        run = box.stored_run(done.stdout.strip())
        assert run is not None and run.meta["status"] == "4"
        assert "of the script" in run.texts("tags")["trainspool.end_reason"]


# -- agents ------------------------------------------------------------------------------------------------------------


def test_without_the_agent_installed_all_stays_in_the_spool_until_sync(tmp_path: Path) -> None:
    """An interpreter that has trainspool and msgpack, and nothing else: what `pip install trainspool` gives."""
    with Box(tmp_path, autostart=True) as box:
        site = tmp_path / "site"
        site.mkdir()
        for package in (trainspool, msgpack):
            source = Path(package.__file__).parent
            (site / source.name).symlink_to(source)
        program = tmp_path / "bare.py"
        program.write_text(
            "import importlib.util, sys\nassert importlib.util.find_spec('watchfiles') is None\n"
            "import trainspool as mlflow\nwith mlflow.start_run() as run:\n"
            "    for step in range(1000):\n        mlflow.log_metric('loss', step, step=step)\n"
            "    mlflow.log_text('你好', 'notes/说明.txt')\n"
            "assert mlflow.flush(timeout=30)\nassert not mlflow.wait(timeout=0.2)\n"
            "print(run.info.run_id)\nsys.exit(3)\n"
        )
        done = subprocess.run(
            [sys.executable, "-S", str(program)],
            env={**box.environment, "PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        said(done.stderr)
        assert not box.store.exists() and box.agent_pid() is None
        box.sync()
        run = box.stored_run(done.stdout.strip())
        assert run is not None and len(run.points("loss")) == 1000 and run.status == FINISHED
        assert run.artifacts() == {"notes/说明.txt": "你好".encode()}


def agents_of(box: Box) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_agent = b"trainspool_agent\0daemon" in (path / "cmdline").read_bytes()
            if is_agent and os.fsencode(box.rings) in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def test_two_scripts_at_once_start_one_agent_and_no_zombie(tmp_path: Path) -> None:
    program = STEADY.replace(
        "sys.exit(3)", "try:\n    os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError:\n    sys.exit(3)"
    )
    with Box(tmp_path, autostart=True) as box:
        witnesses = [box.witness() for _ in range(2)]
        scripts = [box.start(program, witness.path, 10) for witness in witnesses]
        for witness in witnesses:
            until(lambda one=witness: one.text and box.status_of(one.text), "carried by an agent nobody started")  # type: ignore[misc]
        until(lambda: len(agents_of(box)) == 1, "one agent")
        for script in scripts:
            children = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text()
            assert not children, "a script has a child of ours"
        for witness in witnesses:
            witness[STOP] = 1
        for script in scripts:
            done = box.finish(script)
            assert done.returncode == 3, "no os.wait() of the script's meets a process of ours"
            said(done.stderr)
        for witness in witnesses:
            until(lambda one=witness: box.status_of(one.text) == FINISHED, "stored")  # type: ignore[misc]
        until(box.is_quiet, "durable")
        for witness in witnesses:
            all_is_stored(box, witness)
        assert agents_of(box) == [box.agent_pid()] and not list(zombies())


def test_a_killed_agent_is_started_again_by_the_script_that_still_logs(tmp_path: Path) -> None:
    with Box(tmp_path, autostart=True) as box:
        witness = box.witness()
        script = box.start(STEADY, witness.path, 10)
        first = until(box.agent_pid, "an agent")
        os.kill(first, 9)
        until(lambda: box.agent_pid() not in (None, first), "another agent")
        witness[STOP] = 1
        done = box.finish(script)
        assert done.returncode == 3
        said(done.stderr)
        until(lambda: box.status_of(witness.text) == FINISHED, "stored")
        until(box.is_quiet, "durable")
        all_is_stored(box, witness)
