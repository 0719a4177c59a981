"""Measuring: calls timed one by one in fresh processes, percentiles, and the folders a bench may use.

Every function that is measured runs in a process of its own (``worker``), so that what one leaves behind (threads,
a full page cache of its own files, imported modules) does not touch the next. Figures are raw: the clock and the
empty call around them are measured in the same way and reported on a line of their own, never subtracted.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parent.parent
WORKER_S_MAX = 300
Call = Callable[[str, float, int], Any]

_BOOT = "import sys; from bench import harness; harness.serve(*sys.argv[1:])"


class Place(NamedTuple):
    """Folders of one bench run: *disk* for spools and stores, *memory* for rings (0700, tmpfs)."""

    disk: Path
    memory: Path

    def fresh(self, name: str) -> Path:
        """Return a new empty folder on the disk."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.disk))

    def remove(self, home: Path) -> None:
        """Delete what a process left in *home*, before the end of the run: disk and memory are bounded."""
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.memory / home.name, ignore_errors=True)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process whose spool and store are in *home*; rings and agent are apart, too."""
        rings = self.memory / home.name
        rings.mkdir(mode=0o700, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINSPOOL_", "MLFLOW_"))}
        return {
            **kept,
            "PYTHONPATH": str(TESTS),
            "TRAINSPOOL_DIR": str(home / "spool"),
            "TRAINSPOOL_STORE": str(home / "mlruns"),
            "TRAINSPOOL_RING_DIR": str(rings),
            "TRAINSPOOL_AUTOSTART": "0",
            "TRAINSPOOL_EXIT_WAIT": "0",
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_TRACKING_URI": str(home / "mlflow"),
            "OPENBLAS_NUM_THREADS": "1",
            **more,
        }


@contextlib.contextmanager
def workplace(parent: str) -> Iterator[Place]:
    """Yield folders that are gone afterwards."""
    disk = Path(tempfile.mkdtemp(prefix="trainspool-bench-", dir=parent))
    memory = Path(tempfile.mkdtemp(prefix="trainspool-bench-", dir="/dev/shm"))  # mkdtemp makes it 0700
    try:
        yield Place(disk, memory)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


# -- a process of its own -------------------------------------------------------------------------------------------


def worker(
    function: Callable[..., dict[str, Any]], place: Place, home: Path | None = None, **arguments: Any
) -> dict[str, Any]:
    """Call *function* in a fresh interpreter and return what it returned (through JSON).

    Raises:
        RuntimeError: it failed; the message has what it said.
    """
    home = home or place.fresh(function.__name__)
    command = [sys.executable, "-c", _BOOT, function.__module__, function.__name__, json.dumps(arguments)]
    done = subprocess.run(
        command, env=place.environment(home), cwd=home, capture_output=True, text=True, timeout=WORKER_S_MAX
    )
    if done.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__name__} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def serve(module: str, function: str, arguments: str) -> None:
    """The other side of ``worker``."""
    print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments))), flush=True)


# -- one call after the other ---------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """How long calls took, in µs; ``collections`` of the garbage collector happened meanwhile."""

    count: int
    mean: float
    p50: float
    p99: float
    p999: float
    p9999: float
    max: float
    collections: int = 0

    def __str__(self) -> str:
        return f"{short(self.p50)} / {short(self.p99)} / {short(self.p999)} µs"

    @property
    def tail(self) -> str:
        return (
            f"mean {short(self.mean)}, p99.99 {short(self.p9999)}, max {short(self.max)} µs; {self.count} calls, "
            f"{self.collections} collections"
        )


def spread(taken_ns: array[int], collections: int = 0) -> Spread:
    """Return the percentiles of *taken_ns*: the smallest value that at least so many per cent do not exceed."""
    ordered = sorted(taken_ns)
    last = len(ordered) - 1
    points = (ordered[min(last, int(len(ordered) * share))] / 1e3 for share in (0.5, 0.99, 0.999, 0.9999))
    return Spread(len(ordered), sum(ordered) / len(ordered) / 1e3, *points, ordered[-1] / 1e3, collections)


def time_calls(call: Call, count: int, pause_s: float = 0.0) -> array[int]:
    """Return what each of *count* calls took, in ns; *pause_s* asleep before each."""
    clock, sleep = time.perf_counter_ns, time.sleep
    taken = array("q", bytes(8 * count))
    for step in range(count):
        if pause_s:
            sleep(pause_s)
        value = step * 1e-3
        begin = clock()
        call("loss", value, step)
        taken[step] = clock() - begin
    return taken


def measured(call: Call, count: int, pause_s: float = 0.0, warm_up: int = 1000) -> Spread:
    """Return the spread of *count* calls after some that do not count."""
    time_calls(call, min(warm_up, count // 10))
    gc.collect()
    before = collections()
    taken = time_calls(call, count, pause_s)
    return spread(taken, collections() - before)


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def short(number: float) -> str:
    """Return *number* with two or three digits that mean something."""
    if number >= 1e6:
        return f"{number / 1e6:.2f} M"
    if number >= 1e4:
        return f"{number / 1e3:.0f} k"
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
