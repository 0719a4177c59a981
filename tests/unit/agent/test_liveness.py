"""Liveness: the lock and the process table, and what each may say alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import lock
from trainspool_agent import liveness
from trainspool_agent.liveness import Life, Liveness, Process, boot_id, pid_namespace, process_of

HOLDER = """
import subprocess, sys
from trainspool.spool import lock
fd = lock.hold(sys.argv[1])
if sys.argv[2] == "child":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[fd])
    print(child.pid, flush=True)
else:
    print("ready", flush=True)
import time; time.sleep(600)
"""


def identity_of(pid: int) -> dict[str, Any]:
    text = Path(f"/proc/{pid}/stat").read_bytes()
    started = int(text[text.rindex(b")") + 2 :].split()[19])
    return {"boot": boot_id(), "pidns": pid_namespace(), "pid": pid, "started": started}


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Start a process that holds the lock of *tmp_path*, with or without a child that inherits it."""
    started: list[subprocess.Popen[str]] = []
    children: list[int] = []

    def start(kind: str = "alone") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), kind], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        if kind == "child":
            children.append(int(line))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def watching(folder: Path, identity: dict[str, Any] | None, in_order: bool = False) -> Liveness:
    return Liveness(folder, lambda: identity, lambda: in_order)


def becomes(watch: Liveness, life: Life, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while watch.probe() is not life:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_process_that_holds_its_lock_lives_and_dies_with_it(tmp_path: Path, holder: Any) -> None:
    process = holder()
    watch = watching(tmp_path, identity_of(process.pid))
    assert watch.probe() is Life.ALIVE
    process.kill()  # not waited for: a zombie is dead as well
    assert becomes(watch, Life.DEAD)
    assert watch.probe() is Life.DEAD
    watch.close()


def test_the_dead_one_s_lock_is_held_from_then_on(tmp_path: Path, holder: Any) -> None:
    process = holder()
    first = watching(tmp_path, identity_of(process.pid))
    process.kill()
    assert becomes(first, Life.DEAD)
    second = watching(tmp_path, None)
    assert second.probe() is Life.ALIVE
    first.close()
    assert becomes(second, Life.DEAD)
    second.close()


def test_a_free_lock_of_a_process_that_runs_is_no_death(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    watch = watching(tmp_path, identity_of(os.getpid()))
    assert watch.probe() is Life.ALIVE
    watch.close()
    left = watching(tmp_path, identity_of(os.getpid()), in_order=True)
    assert left.probe() is Life.DEAD
    left.close()


def test_a_lock_left_to_a_child_is_taken_over(tmp_path: Path, holder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "DOUBT_INTERVAL_S", 0.05)
    process = holder("child")
    watch = watching(tmp_path, identity_of(process.pid))
    assert watch.probe() is Life.ALIVE
    process.kill()
    process.wait()
    assert becomes(watch, Life.DEAD)
    watch.close()


def test_another_start_time_is_another_process() -> None:
    identity = identity_of(os.getpid())
    assert process_of(identity) is Process.RUNS
    assert process_of({**identity, "started": identity["started"] - 1}) is Process.GONE
    assert process_of({**identity, "boot": "another"}) is Process.ELSEWHERE
    assert process_of({**identity, "pidns": 1}) is Process.ELSEWHERE
    assert process_of({**identity, "pid": "hostile"}) is Process.ELSEWHERE


def test_a_lock_renamed_into_place_since_we_looked_is_looked_at_anew(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    watch = watching(tmp_path, identity_of(os.getpid()))
    watch.probe()
    fd = lock.hold(str(tmp_path))
    gone = watching(tmp_path, {**identity_of(os.getpid()), "started": 1})
    gone._fd = watch._fd
    assert gone.probe() is Life.ALIVE
    os.close(fd)


def test_a_folder_without_lock_and_identity_is_nobody_s(tmp_path: Path) -> None:
    assert watching(tmp_path, None).probe() is Life.UNKNOWN
