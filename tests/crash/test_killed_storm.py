"""SIGKILL at random moments, stalled and full disks, eight threads: every call that returned is held or counted."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import spooled
from spooled import Journal, Place, until

LOGS_FAST = (
    Journal.HEAD
    + """
mlflow.start_run()
step = 0
while True:
    step += 1
    mlflow.log_metric("a", 0.5, step=step)
    journal[0] = step
    mlflow.log_metrics({"b": 1.0, "c": 2.0}, step=step)
    journal[1] = step
    if step % 100 == 0:
        mlflow.log_metric(f"new {step}", 1.0, step=step)
        journal[2] = step
"""
)


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.long)])
def test_killed_at_a_random_moment_every_call_that_returned_is_held_in_order(
    place: Place, kills: int, seed: int
) -> None:
    chance, most = random.Random(seed), 0
    for _ in range(kills):
        journal = place.journal()
        child = place.start(LOGS_FAST, journal, TRAINSPOOL_RING_BYTES=str(32 << 20))
        until(lambda journal=journal: journal[0])
        time.sleep(chance.random() * 0.1)
        spooled.kill(child)
        a, b, new = journal[0], journal[1], journal[2]
        held = place.stream()
        assert held.drops == {} and held.damage == [] and held.ring is not None
        assert held.steps("a") in (list(range(1, a + 1)), list(range(1, a + 2)))
        assert held.steps("b") == held.steps("c") in (list(range(1, b + 1)), list(range(1, b + 2)))
        assert sum(name.startswith("new") for _, name, _, _ in held.points) in (new // 100, new // 100 + 1)
        assert held.ends == [], "it did not end: whoever drains it says so"
        most = max(most, a)
        if held.folder:
            shutil.rmtree(held.folder)
        held.ring.unlink()
    print(f"{kills} kills, at most {most} steps")


# The disk stalls in the child's first write after the word is given, as on a hung file server.
STALLED = (
    Journal.HEAD
    + """
import threading
from trainspool.spool import files
go_on, stalled = threading.Event(), threading.Event()
class Stalling(files.Files):
    def write(self, fd, data):
        if journal[5] == 0:
            stalled.set()
            go_on.wait()
        super().write(fd, data)
mlflow.start_run()
mlflow.log_metric("a", 0.5, step=1)
assert mlflow.flush(timeout=20)
files.fs = Stalling()
mlflow.log_metric("a", 0.5, step=2)
stalled.wait()
worst = 0
for step in range(3, int(sys.argv[2]) + 3):
    begun = time.monotonic_ns()
    mlflow.log_metric("a", 0.5, step=step)
    worst = max(worst, time.monotonic_ns() - begun)
    journal[0] = step
    if step % 10 == 0:
        mlflow.log_metrics({"b": 1.0, f"key {step}": 2.0}, step=step)
        journal[1] = step
journal[2] = 1
print(worst)
"""
)


def test_killed_while_the_disk_stalls_what_the_ring_took_is_held_and_the_rest_is_counted(place: Place) -> None:
    journal = place.journal()
    child = place.start(STALLED + "time.sleep(600)", journal, 30_000, TRAINSPOOL_RING_BYTES=str(256 << 10))
    until(lambda: journal[2])
    spooled.kill(child)
    held = place.stream()
    (dropped,) = held.drops.values()
    logged = journal[0] + 2 * (journal[1] // 10)
    assert dropped[0] > 10_000, "the ring was to be too small"
    assert len(held.points) + dropped[0] == logged
    assert len(held.events) - 1 + dropped[1] == journal[0] + journal[1] // 10  # the one more is the run's start
    steps = held.steps("a")
    assert steps == sorted(set(steps)), "what is held is in order and once"


def test_when_a_stalled_disk_goes_on_so_does_the_stream_and_says_how_much_is_missing(place: Place) -> None:
    journal = place.journal()
    go_on = """
journal[5] = 1
go_on.set()
assert mlflow.flush(timeout=20)
mlflow.log_metric("a", 0.5, step=1_000_000)
"""
    done = place.run(STALLED + go_on, journal, 30_000, TRAINSPOOL_RING_BYTES=str(256 << 10))
    held = place.stream()
    gaps = [event for event in held.events if event[0] == 10]
    logged = journal[0] + 2 * (journal[1] // 10) + 1
    assert len(held.points) + gaps[-1][3] == logged and held.in_order
    assert held.steps("a")[-1] == 1_000_000
    (said,) = [line for line in done.warnings if "the ring" in line]
    assert "256 KiB" in said and "dropped, and counted" in said and "TRAINSPOOL_RING_BYTES" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = (
    Journal.HEAD
    + """
mlflow.start_run()
for step in range(1, 20_001):
    mlflow.log_metric("a", 0.5, step=step)
    if step % 500 == 0: time.sleep(0.01)
journal[0] = 1
while not journal[1]: time.sleep(0.01)
assert mlflow.flush(timeout=20)
mlflow.log_metric("a", 0.5, step=20_001)
"""
)


def test_a_full_disk_that_gets_room_again_takes_everything(place: Place, small_disk: Path) -> None:
    journal, ballast = place.journal(), small_disk / "ballast"
    ballast.write_bytes(bytes(700 << 10))
    place.spool = small_disk / "spool"
    child = place.start(FULL, journal)
    until(lambda: journal[0])
    free = os.statvfs(small_disk)
    assert free.f_bavail * free.f_frsize < 300 << 10
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    journal_words = journal.path.read_bytes()
    with journal.path.open("r+b") as file:
        file.write(journal_words[:8] + (1).to_bytes(8, "little"))
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    held = place.stream()
    assert held.steps("a") == list(range(1, 20_002)) and not held.damage
    assert [line for line in err.splitlines() if "cannot write the spool" in line or "no room" in line.lower()]


THREADS = (
    Journal.HEAD
    + """
import threading
sys.setswitchinterval(1e-5)
mlflow.start_run()
def log(source):
    for step in range(1, 3001):
        mlflow.log_metric(f"thread {source}", 0.5, step=step)
        if step % 10 == 0:
            mlflow.log_metrics({"shared": 1.0, f"key {step % 500} {source}": 2.0}, step=step)
            mlflow.set_tag(f"t{source}", step)
        journal[source] = step
threads = [threading.Thread(target=log, args=(source,)) for source in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
)


@pytest.mark.parametrize("kind", ["", "with the chunk for interpreters without a GIL"])
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_eight_threads_that_log_at_once_lose_and_repeat_nothing(place: Place, version: str, kind: str) -> None:
    python = spooled.other_python(version)
    force = "from trainspool.spool import ring\nring._chunk_class = lambda: ring.FreeThreadedChunk\n" if kind else ""
    place.run(force + THREADS, place.journal(), python=python, TRAINSPOOL_RING_BYTES=str(32 << 20), timeout=120)
    held = place.stream()
    assert not held.drops
    for source in range(8):
        assert held.steps(f"thread {source}") == list(range(1, 3001))
    assert len(held.steps("shared")) == 8 * 300
    assert held.tags["t7"] == "3000"
