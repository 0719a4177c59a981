"""Files on full disks, over the quota, changed by others, and processes that fork or leave while they copy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import SHARED_MEMORY, Box, until
from filesystems import in_memory

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")

MIB = 1 << 20
LOG = """
import json, os, sys, time
import trainspool as mlflow
mlflow.set_experiment("trouble")
run = mlflow.start_run()
how = []
def log(number, content=None, **options):
    with open(f"{number}.bin", "wb") as file:
        file.write(content or bytes([number]) * (3 << 20))
    how.extend(mlflow.log_artifact(f"{number}.bin", **options).how)
def say(name):
    with open(f"{name}.tmp", "w") as file:
        json.dump([run.info.run_id, how], file)
    os.rename(f"{name}.tmp", name)
def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)
"""
SLOW = """
import errno
from trainspool.spool import files
class Slow(files.Files):
    def clone(self, source, target):
        raise OSError(errno.EOPNOTSUPP, "shares no blocks")
    def copy_range(self, source, target, count):
        open("copying", "w").close()
        wait_for("go")
        return super().copy_range(source, target, min(count, 1 << 20))
files.fs = Slow()
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        yield made


def put_spool(box: Box, spool: Path, **more: str) -> None:
    box.spool = spool
    box.environment.update(TRAINSPOOL_DIR=str(spool), **more)


def said(box: Box, name: str) -> tuple[str, list[str]]:
    run_id, how = json.loads(until(lambda: (box.folder / name).exists() and (box.folder / name).read_text(), name))
    return run_id, how


def problem(box: Box, run_id: str) -> str:
    run = box.stored_run(run_id)
    assert run is not None
    return run.texts("tags").get("trainspool.problem", "")


def stored(box: Box, run_id: str) -> dict[str, bytes]:
    run = box.stored_run(run_id)
    return run.artifacts() if run is not None else {}


# -- no room --------------------------------------------------------------------------------------------------------


def test_a_full_spool_refuses_files_says_so_and_takes_them_again_when_there_is_room(box: Box) -> None:
    with in_memory(12 * MIB) as place:
        put_spool(box, place / "spool")
        (place / "ballast").write_bytes(bytes(4 * MIB))
        program = LOG + "for n in range(4): log(n)\nsay('full')\nwait_for('room')\nlog(9)\nsay('end')\n"
        script = box.start(program)
        run_id, how = said(box, "full")
        assert how[0] == "copied" and how[-1] == "failed"
        (place / "ballast").unlink()
        (box.folder / "room").touch()
        assert said(box, "end")[1][-1] == "copied" and box.finish(script).returncode == 0
        box.sync()
        captured = [number for number, one in zip((0, 1, 2, 3, 9), said(box, "end")[1], strict=True) if one == "copied"]
        assert stored(box, run_id) == {f"{number}.bin": bytes([number]) * 3 * MIB for number in captured}
        assert "do not fit" in problem(box, run_id) or "No space left" in problem(box, run_id)


def test_a_full_store_has_its_files_wait_and_come_when_there_is_room(box: Box) -> None:
    with in_memory(12 * MIB) as place:
        box.store = place / "mlruns"
        box.environment["TRAINSPOOL_STORE"] = str(box.store)
        (place / "ballast").write_bytes(bytes(8 * MIB))
        script = box.start(LOG + "for n in range(3): log(n)\nsay('end')\n")
        run_id, how = said(box, "end")
        assert how == ["copied"] * 3 and box.finish(script).returncode == 0
        agent = box.start_agent()
        until(lambda: "artifacts wait" in box.agent_log(), "the agent says that there is no room")
        assert len(stored(box, run_id)) < 3
        (place / "ballast").unlink()
        until(lambda: len(stored(box, run_id)) == 3, "all files in their place")
        box.stop(agent)
        assert stored(box, run_id) == {f"{number}.bin": bytes([number]) * 3 * MIB for number in range(3)}


def test_files_beyond_the_quota_are_refused_and_counted(box: Box) -> None:
    put_spool(box, box.folder / "spool", TRAINSPOOL_SPOOL_QUOTA="8 MiB")
    box.store = Path("/dev/shm") / f"trainspool-quota-{os.getpid()}"  # elsewhere: what is shared with the store is free
    box.environment["TRAINSPOOL_STORE"] = str(box.store)
    try:
        script = box.start(LOG + "log(0)\nlog(1)\nsay('half')\nwait_for('on')\nfor n in (2, 3): log(n)\nsay('end')\n")
        run_id, _ = said(box, "half")
        agent = box.start_agent()
        [word] = until(lambda: list(box.spool.glob("quota.*")), "the agent's word on the quota")
        until(lambda: json.loads(word.read_text())["bytes"] > 6 * MIB, "the files are counted")
        (box.folder / "on").touch()
        assert said(box, "end")[1] == ["copied", "copied", "failed", "failed"]
        assert box.finish(script).returncode == 0
        until(lambda: "2 artifacts" in problem(box, run_id), "the run says how many")
        assert "quota" in problem(box, run_id)
        box.stop(agent)
        assert set(stored(box, run_id)) == {"0.bin", "1.bin"}
    finally:
        shutil.rmtree(box.store, ignore_errors=True)


# -- others at the source -------------------------------------------------------------------------------------------


def test_a_source_that_others_replace_all_the_time_is_captured_as_one_of_its_versions(box: Box) -> None:
    program = LOG + (
        "from trainspool.errors import TrainspoolException\n"
        "n = 0\n"
        "while sum(one in ('copied', 'cloned') for one in how) < 10:\n"
        "    n += 1\n"
        "    try:\n"
        "        how.extend(mlflow.log_artifact('source.bin', str(n)).how)\n"
        "    except (FileNotFoundError, TrainspoolException) as error:\n"
        "        how.append(type(error).__name__)\n"
        "say('end')\n"
    )
    source, stop = box.folder / "source.bin", threading.Event()
    versions = [bytes([number]) * (MIB + number) for number in range(20)]
    source.write_bytes(versions[0])

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            temporary = box.folder / "temporary"
            if number % 7 == 0:
                temporary.symlink_to("/nowhere")
            elif number % 5 == 0:
                os.mkfifo(temporary)
            else:
                temporary.write_bytes(versions[number % 20])
            os.replace(temporary, source)
            if number % 3 == 0:
                source.unlink()

    others = threading.Thread(target=replace)
    others.start()
    try:
        script = box.start(program)
        run_id, how = said(box, "end")
        assert box.finish(script).returncode == 0
    finally:
        stop.set()
        others.join()
    box.sync()
    found = stored(box, run_id)
    assert len(found) == sum(one in ("copied", "cloned") for one in how) >= 10
    assert all(data in versions for data in found.values())


# -- processes ------------------------------------------------------------------------------------------------------


def test_a_forked_child_does_not_keep_a_dead_parents_copy_alive(box: Box) -> None:
    """A data loader's worker outlives the training; the part that it inherited must not say that someone copies."""
    fork = "if os.fork() == 0:\n    open('child', 'w').write(str(os.getpid()))\n    wait_for('never')\n"
    program = (
        LOG + SLOW + "log(1, background=True)\nwait_for('copying')\n" + fork + "say('forked')\nwait_for('never')\n"
    )
    script = box.start(program)
    run_id, _ = said(box, "forked")
    child = int(until(lambda: (box.folder / "child").exists() and (box.folder / "child").read_text(), "a child"))
    try:
        script.kill()
        script.wait()
        agent = box.start_agent()
        until(lambda: box.stored_run(run_id) and problem(box, run_id), "the run says what was lost")
        assert "its process ended while" in problem(box, run_id) and not stored(box, run_id)
        box.stop(agent)
    finally:
        os.kill(child, signal.SIGKILL)


AT_EXIT = (
    "import atexit\natexit.register(lambda: open('exiting', 'w').close())\n"  # before trainspool's own, which waits
)


def _waits_at_exit(box: Box) -> bool:
    return (box.folder / "exiting").exists()


def test_a_process_that_leaves_waits_for_its_copies(box: Box) -> None:
    script = box.start(LOG + SLOW + AT_EXIT + "log(1, background=True)\nwait_for('copying')\nsay('leaving')\n")
    run_id, _ = said(box, "leaving")
    until(lambda: _waits_at_exit(box), "it waits at its exit")
    (box.folder / "go").touch()
    assert box.finish(script).returncode == 0
    box.sync()
    assert stored(box, run_id) == {"1.bin": bytes([1]) * 3 * MIB}


def test_ctrl_c_leaves_copies_behind_and_says_so(box: Box) -> None:
    program = LOG + SLOW + AT_EXIT + "log(1, background=True)\nwait_for('copying')\nsay('leaving')\n"
    script = box.start(program)
    run_id, _ = said(box, "leaving")
    until(lambda: _waits_at_exit(box), "it waits at its exit")
    script.send_signal(signal.SIGINT)
    done = box.finish(script)
    assert "left before all artifacts were captured" in done.stderr, done.stderr
    box.sync()
    assert not stored(box, run_id) and "its process ended while" in problem(box, run_id)


def test_a_signal_handler_logs_a_file_in_the_middle_of_another(box: Box) -> None:
    program = LOG + (
        "import signal\n"
        "count = 0\n"
        "def handle(*_):\n"
        "    global count\n"
        "    count += 1\n"
        "    mlflow.log_artifact('inner.bin', f'inner/{count}')\n"
        "signal.signal(signal.SIGALRM, handle)\n"
        "open('inner.bin', 'wb').write(b'inner' * 1000)\n"
        "open('outer.bin', 'wb').write(b'outer' * 60_000)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)\n"
        "for n in range(150):\n"
        "    mlflow.log_artifact('outer.bin', f'outer/{n}', background=n % 3 == 0, link=n % 3 == 1)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0, 0)\n"
        "how.append(count)\n"
        "say('end')\n"
    )
    script = box.start(program)
    run_id, how = said(box, "end")
    assert box.finish(script).returncode == 0
    box.sync()
    found = stored(box, run_id)
    assert int(how[0]) > 0 and len(found) == 150 + int(how[0])
    assert all(data in (b"outer" * 60_000, b"inner" * 1000) for data in found.values())
    assert not problem(box, run_id)
